//! What is deployed, as far as it can be tried without a cluster: the chart, the manifests, the image, the unit.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::stack;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs one of the checkers, and returns what it says when it is content.
fn checked(script: &str, more: &[&OsStr]) -> String {
    let helm = root().join(".cache/helm/helm");
    assert!(helm.exists(), "no Helm at {}: run `make deps` first", helm.display());
    let mut command = Command::new(root().join(".cache/venv/bin/python"));
    command.arg(root().join("tests/tools").join(script));
    command.arg("--guard").arg(env!("CARGO_BIN_EXE_envoy-guard"));
    command.arg("--envoy").arg(stack::envoy_binary());
    command.arg("--helm").arg(helm).args(more);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The chart over a matrix of values, every manifest, every Envoy fragment.
#[test]
fn the_chart_and_the_manifests_are_what_kubernetes_envoy_and_the_service_read() {
    // Schemas of custom resources are others' data; where there are none their kinds are named as not checked.
    let schemas = std::env::var_os("TEST_CRDS");
    let more = schemas.iter().flat_map(|folder| [OsStr::new("--crds"), folder]).collect::<Vec<_>>();
    let said = checked("deploy.py", &more);
    // What was rendered was also looked at.
    for what in ["sets of values rendered", "bad values refused", "Envoy configurations read by Envoy", "manifests"] {
        assert!(said.contains(what), "{said}");
    }
}

/// Every configuration of the documentation is read by what it is for, every command is run, every link leads somewhere.
#[test]
fn what_the_documentation_shows_works() {
    let said = checked("docs.py", &[]);
    for what in ["commands run", "configurations read by the service", "links followed"] {
        assert!(said.contains(what), "{said}");
    }
}

/// systemd reads the unit, and finds nothing to say about it.
#[test]
fn systemd_reads_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(root().join("docs/deploy/envoy-guard.service")).unwrap();
    // `verify` looks for the program.
    let text = text.replace("/usr/local/bin/envoy-guard", env!("CARGO_BIN_EXE_envoy-guard"));
    let unit = folder.path().join("envoy-guard.service");
    fs::write(&unit, text).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit).output();
    let output = output.expect("systemd-analyze is part of Debian's `systemd`: run `make deps` first");
    let said = String::from_utf8_lossy(&output.stderr);
    let about_ours = said.lines().any(|line| line.contains("envoy-guard"));
    assert!(output.status.success() && !about_ours, "{said}");
}

/// The image installs the library that the binary asks for, and runs as nobody.
#[test]
fn the_dockerfile_names_what_the_binary_needs() {
    let text = fs::read_to_string(root().join("Dockerfile")).unwrap();
    for part in ["libvectorscan5", "libvectorscan-dev", "--locked", "USER 65532:65532", "ENTRYPOINT"] {
        assert!(text.contains(part), "the Dockerfile lacks {part}");
    }
    let hadolint = root().join(".cache/venv/bin/hadolint");
    assert!(hadolint.exists(), "no hadolint at {}: run `make deps` first", hadolint.display());
    let output = Command::new(hadolint).arg("--no-color").arg(root().join("Dockerfile")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let linked = Command::new("ldd").arg(env!("CARGO_BIN_EXE_envoy-guard")).output().unwrap();
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    // Everything else that it links comes with libc and the C++ library, which libvectorscan5 brings along.
    let known = ["libhs.so.5", "libstdc++", "libgcc_s", "libm.so", "libc.so", "ld-linux", "linux-vdso"];
    let unknown: Vec<&str> = linked.lines().filter(|line| !known.iter().any(|name| line.contains(name))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
