use std::os::unix::fs::PermissionsExt;

use super::*;

fn named(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}

fn open(folder: &Path) -> Databases {
    let mut config = Config::default();
    config.detection.database_cache = Setting::Folder(folder.to_owned());
    Databases::open(&config, &Environment::default())
}

#[test]
fn what_is_written_is_read_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("made/when/absent");
    open(&inner).write(&named('a'), b"bytes");
    let next = open(&inner);
    assert_eq!(next.read(&named('a')).as_deref(), Some(b"bytes".as_slice()));
    assert_eq!(next.read(&named('b')), None);
    assert_eq!(next.remarks(), Vec::<String>::new());
    let mode = fs::metadata(&inner).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
    next.write(&named('a'), b"other");
    assert_eq!(next.read(&named('a')).as_deref(), Some(b"other".as_slice()));
    let names: Vec<_> = fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "no half-written file stays: {names:?}");
}

#[test]
fn what_others_may_write_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let databases = open(folder.path());
    databases.write(&named('a'), b"bytes");
    let path = databases.path(&named('a')).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(databases.read(&named('a')), None);
    assert!(databases.remarks()[0].contains("others may write to it"), "{:?}", databases.remarks());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let open = open(folder.path());
    assert_eq!(open.folder, None);
    assert!(open.remarks()[0].contains("others may write to it"), "{:?}", open.remarks());
}

#[test]
fn a_folder_that_cannot_be_used_is_a_remark_and_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let databases = open(&file.join("below"));
    databases.write(&named('a'), b"bytes");
    assert_eq!(databases.read(&named('a')), None);
    assert_eq!(databases.remarks().len(), 1);
    // What nobody asked for is not missed.
    let home = Some(file.clone().into_os_string());
    let environment = Environment { cache_directory: home.clone(), cache_home: home.clone(), home };
    assert_eq!(Databases::open(&Config::default(), &environment).remarks(), Vec::<String>::new());
}

#[test]
fn old_files_make_room_and_foreign_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let databases = open(folder.path());
    let name = |index: usize| format!("{index:064x}");
    fs::write(folder.path().join("notes.hsdb"), "not ours").unwrap();
    let temporary = folder.path().join(format!("{}.1-1.tmp", name(9)));
    fs::write(&temporary, "half").unwrap();
    File::open(&temporary).unwrap().set_modified(UNIX_EPOCH).unwrap();
    for index in 0..FILES_MAX + 3 {
        databases.write(&name(index), b"bytes");
        let path = databases.path(&name(index)).unwrap();
        File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(index as u64)).unwrap();
    }
    let kept = (0..FILES_MAX + 3).filter(|index| databases.path(&name(*index)).unwrap().exists());
    assert_eq!(kept.collect::<Vec<_>>(), (3..FILES_MAX + 3).collect::<Vec<_>>());
    assert!(folder.path().join("notes.hsdb").exists());
    assert!(!temporary.exists());
    assert_eq!(databases.remarks(), Vec::<String>::new());
}

#[test]
fn the_folder_is_found_by_what_the_process_says() {
    let some = |text: &str| Some(OsString::from(text));
    let environment = Environment { cache_directory: some("/s"), cache_home: some("/x"), home: some("/h") };
    let folders = |environment: &Environment| {
        environment.folders().iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(folders(&environment), ["/s", "/x/envoy-guard", "/var/cache/envoy-guard"]);
    let home = Environment { home: some("/h"), ..Environment::default() };
    assert_eq!(folders(&home), ["/h/.cache/envoy-guard", "/var/cache/envoy-guard"]);
    let off = Config {
        detection: crate::config::exclusions::DetectionConfig { database_cache: Setting::Off, ..Default::default() },
        ..Config::default()
    };
    assert_eq!(Databases::open(&off, &environment).folder, None);
}

#[test]
fn a_start_with_a_damaged_or_foreign_file_builds_anew_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let sources = crate::config::Sources {
        overrides: vec![("detection.database_cache".to_owned(), folder.path().display().to_string())],
        ..Default::default()
    };
    let remarks = || crate::app::build::build(&sources).unwrap().notices.warnings;
    let files = || {
        let mut files: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    assert_eq!(remarks(), Vec::<String>::new(), "an empty folder is filled");
    let written = files();
    assert!(!written.is_empty());
    assert_eq!(remarks(), Vec::<String>::new(), "a filled folder is used");
    let whole = fs::read(&written[0]).unwrap();
    for (name, bytes) in [
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("another's", fs::read(&written[1]).unwrap()),
        ("empty", Vec::new()),
    ] {
        fs::write(&written[0], bytes).unwrap();
        let remarks = remarks();
        assert!(remarks.len() == 1 && remarks[0].contains("it is built anew"), "{name}: {remarks:?}");
        assert_eq!(fs::read(&written[0]).unwrap().len(), whole.len(), "{name}: written over");
    }
    assert_eq!(files(), written);
}
