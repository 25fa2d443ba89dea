{{- define "envoy-guard.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "envoy-guard.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "envoy-guard.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "envoy-guard.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "envoy-guard.selectorLabels" -}}
app.kubernetes.io/name: {{ include "envoy-guard.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "envoy-guard.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "envoy-guard.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "envoy-guard.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "envoy-guard.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "envoy-guard.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "envoy-guard.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}
{{- printf "%s-tls" (include "envoy-guard.fullname" .) }}
{{- else }}
{{- required "tls.existingSecret or tls.certManager.enabled is needed with tls.enabled" .Values.tls.existingSecret }}
{{- end }}
{{- end }}

{{- define "envoy-guard.configMap" -}}
{{- default (printf "%s-config" (include "envoy-guard.fullname" .)) .Values.existingConfigMap }}
{{- end }}

{{- /* The configuration: what the chart knows, overruled by what the user says. */}}
{{- define "envoy-guard.config" -}}
{{- $listeners := dict "grpc" (printf "0.0.0.0:%v" .Values.ports.grpc) }}
{{- if .Values.sidecar.enabled }}
{{- $listeners = dict "grpc" nil "unix" "/run/envoy-guard/guard.sock" "unix_mode" "0660" }}
{{- else if .Values.tls.enabled }}
{{- $tls := dict "cert_file" "/etc/envoy-guard/tls/tls.crt" "key_file" "/etc/envoy-guard/tls/tls.key" }}
{{- if .Values.tls.requireClientCertificate }}
{{- $ca := ternary "/etc/envoy-guard/client-ca/ca.crt" "/etc/envoy-guard/tls/ca.crt" (ne .Values.tls.clientCaSecret "") }}
{{- $tls = merge $tls (dict "client_ca_file" $ca "require_client_certificate" true "client_names" .Values.tls.allowedNames) }}
{{- end }}
{{- $_ := set $listeners "tls" $tls }}
{{- end }}
{{- $base := dict "listeners" $listeners "admin" (dict "address" (printf "0.0.0.0:%v" .Values.ports.admin)) }}
{{- if .Values.patterns }}
{{- $_ := set $base "detection" (dict "patterns_dir" "/etc/envoy-guard/patterns") }}
{{- end }}
{{- if or .Values.redis.existingSecret .Values.redis.url }}
{{- $security := dict "enable_redis" true }}
{{- if not .Values.redis.existingSecret }}
{{- $_ := set $security "redis_url" .Values.redis.url }}
{{- end }}
{{- $user := deepCopy .Values.config }}
{{- if $user.security }}
{{- $_ := unset $user.security "enable_redis" }}
{{- end }}
{{- $base = mustMergeOverwrite $base (dict "security" $security) $user }}
{{- if .Values.redis.caSecret }}
{{- $base = mustMergeOverwrite (dict "redis" (dict "tls" (dict "ca_file" "/etc/envoy-guard/redis-ca/ca.crt"))) $base }}
{{- end }}
{{- else }}
{{- $base = mustMergeOverwrite $base (deepCopy .Values.config) }}
{{- end }}
{{- toYaml $base }}
{{- end }}

{{- /* What takes effect only with a new process. The rest of the configuration is reloaded in place. */}}
{{- define "envoy-guard.restartChecksum" -}}
{{- $config := include "envoy-guard.config" . | fromYaml }}
{{- $security := default dict $config.security }}
{{- $parts := dict "listeners" $config.listeners "admin" $config.admin "redis" $config.redis "limits" $config.limits "telemetry" $config.telemetry }}
{{- range $key, $value := $security }}
{{- if hasPrefix "redis_" $key }}{{- $_ := set $parts $key $value }}{{- end }}
{{- end }}
{{- $_ := set $parts "enable_redis" $security.enable_redis }}
{{- toJson $parts | sha256sum }}
{{- end }}
