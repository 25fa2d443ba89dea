//! Objects of Kubernetes: names that lead nowhere, and ports that do not say what they speak.

use crate::lint::codes::*;
use crate::lint::examination::Examination;
use crate::lint::spot::Spot;
use crate::lint::survey::Object;

/// Looks at every object.
pub(super) fn look(about: &mut Examination<'_>) {
    let objects = std::mem::take(&mut about.survey.objects);
    for object in &objects {
        let spec = object.spot.at("spec");
        match object.kind {
            "AuthorizationPolicy" => provider(about, spec),
            "HTTPProxy" => {
                extension(
                    about,
                    &objects,
                    object,
                    spec.at("virtualhost.authorization.extensionRef"),
                    "ExtensionService",
                );
            }
            "TrafficPolicy" => {
                for filter in ["extAuth", "extProc"] {
                    extension(about, &objects, object, spec.at(filter).at("extensionRef"), "GatewayExtension");
                }
            }
            "SecurityPolicy" => grants(about, &objects, object, spec.at("extAuth.grpc.backendRefs")),
            "EnvoyExtensionPolicy" => {
                for filter in spec.at("extProc").items() {
                    grants(about, &objects, object, filter.at("backendRefs"));
                }
            }
            "GatewayExtension" => {
                for filter in ["extAuth", "extProc"] {
                    granted(about, &objects, object, spec.at(filter).at("grpcService.backendRef"));
                }
            }
            "Service" => ports(about, object),
            _ => {}
        }
    }
    about.survey.objects = objects;
}

fn provider(about: &mut Examination<'_>, spec: Spot<'_>) {
    let name = spec.at("provider.name");
    let is_known = name.text().is_none_or(|name| about.survey.providers.contains(&name));
    if spec.at("action").is_word("CUSTOM") && about.survey.has_mesh && !is_known {
        about.say(EG7001, name, format!("`{}`", name.text().unwrap_or_default()));
    }
}

fn extension(about: &mut Examination<'_>, objects: &[Object<'_>], own: &Object<'_>, reference: Spot<'_>, kind: &str) {
    let Some(name) = reference.at("name").text() else { return };
    let namespace = reference.at("namespace").text().unwrap_or(own.namespace);
    let mut known = objects.iter().filter(|object| object.kind == kind).peekable();
    // Without any the extension is in a file that we were not shown.
    if known.peek().is_some() && !known.any(|object| object.name == name && object.namespace == namespace) {
        about.say(EG7002, reference, format!("no {kind} {namespace}/{name}"));
    }
}

fn grants(about: &mut Examination<'_>, objects: &[Object<'_>], own: &Object<'_>, references: Spot<'_>) {
    for reference in references.items() {
        granted(about, objects, own, reference);
    }
}

fn granted(about: &mut Examination<'_>, objects: &[Object<'_>], own: &Object<'_>, reference: Spot<'_>) {
    let Some(namespace) = reference.at("namespace").text().filter(|namespace| *namespace != own.namespace) else {
        return;
    };
    let is_granted = objects.iter().filter(|object| object.kind == "ReferenceGrant").any(|grant| {
        grant.namespace == namespace
            && grant.spot.at("spec.from").items().any(|from| {
                from.at("kind").text() == Some(own.kind) && from.at("namespace").text() == Some(own.namespace)
            })
    });
    if !is_granted {
        about.say(EG7003, reference, format!("{} {}/{} into {namespace}", own.kind, own.namespace, own.name));
    }
}

/// The port over which the guard is asked.
fn ports(about: &mut Examination<'_>, service: &Object<'_>) {
    if !service.name.to_ascii_lowercase().contains("guard") {
        return;
    }
    for port in service.spot.at("spec.ports").items() {
        let name = port.at("name").text().unwrap_or_default();
        let protocol = port.at("appProtocol").text().unwrap_or_default();
        let is_told = ["grpc", "http2"].iter().any(|known| name.starts_with(known))
            || ["grpc", "kubernetes.io/h2c", "http2", "https"].contains(&protocol);
        let is_other = name.starts_with("admin") || name.starts_with("metrics") || name.starts_with("http");
        if !is_told && !is_other {
            about.say(EG7004, port, "");
        }
    }
}

/// How many guards the objects say run side by side.
pub(super) fn replicas(objects: &[Object<'_>]) -> u64 {
    let is_ours = |object: &&Object<'_>| object.name.to_ascii_lowercase().contains("guard");
    let counts = objects.iter().filter(is_ours).filter_map(|object| match object.kind {
        "Deployment" | "StatefulSet" => object.spot.at("spec.replicas").number(),
        "HorizontalPodAutoscaler" => object.spot.at("spec.maxReplicas").number(),
        _ => None,
    });
    counts.max().unwrap_or(1)
}
