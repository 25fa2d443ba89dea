//! What SQL functions and tables are for: plain work, reading facts about the server, or acting on it.

/// How much a called function says about its caller.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Role {
    /// Not a function we know.
    Unknown,
    /// A function of every dialect: text, numbers, aggregates, facts about the server.
    Known,
    /// Tells something about the server, or spells text by numbers.
    Fact,
    /// Waits, raises, reads files, opens connections, runs programs: nobody types it into a form.
    Probe,
}

/// Longest name that is compared.
const NAME_MAX: usize = 24;

/// A bit for each two letters that names of some tables begin with: most words are told apart by theirs.
struct Beginnings([u32; 32]);

impl Beginnings {
    const fn of(mut tables: &[&[&[u8]]]) -> Self {
        let mut first = [0; 32];
        while let [table, other @ ..] = tables {
            let mut rest: &[&[u8]] = table;
            while let [name, more @ ..] = rest {
                if let [one, two, ..] = name {
                    mark(&mut first, *one, *two);
                }
                rest = more;
            }
            tables = other;
        }
        Self(first)
    }

    /// False when no name of the tables begins like this one.
    fn may_hold(&self, name: &[u8]) -> bool {
        let [one, two, ..] = name else { return false };
        self.0.get(usize::from(one & 31)).is_some_and(|seconds| seconds >> (two & 31) & 1 == 1)
    }
}

#[expect(clippy::indexing_slicing, reason = "five bits are below 32")]
const fn mark(first: &mut [u32; 32], one: u8, two: u8) {
    first[(one & 31) as usize] |= 1 << (two & 31);
}

static WITH_ROLE: Beginnings = Beginnings::of(&[PROBE_PACKAGES, PROBES, FACTS, KNOWN]);
static OF_PROBES: Beginnings = Beginnings::of(&[PROBE_PACKAGES, PROBES]);
static OF_FACTS: Beginnings = Beginnings::of(&[FACTS]);
static OF_KNOWN: Beginnings = Beginnings::of(&[KNOWN]);
static OF_CATALOGUES: Beginnings = Beginnings::of(&[CATALOGUES]);

/// Whether the function called `name` acts on the server: most words of a text are told apart sooner than by [`role`].
pub(super) fn is_probe(name: &[u8]) -> bool {
    OF_PROBES.may_hold(name) && role(name) == Role::Probe
}

/// The role of the function called `name`, in any case; a package prefix is part of the name.
pub(super) fn role(name: &[u8]) -> Role {
    if !WITH_ROLE.may_hold(name) {
        return Role::Unknown;
    }
    let mut lower = [0_u8; NAME_MAX];
    let kept = name.len().min(NAME_MAX);
    let (Some(room), Some(head)) = (lower.get_mut(..kept), name.get(..kept)) else { return Role::Unknown };
    room.copy_from_slice(head);
    room.make_ascii_lowercase();
    if PROBE_PACKAGES.iter().any(|prefix| room.starts_with(prefix)) {
        return Role::Probe;
    }
    if name.len() != kept {
        return Role::Unknown;
    }
    let find = |table: &[&[u8]], some: &Beginnings| some.may_hold(name) && table.binary_search(&&*room).is_ok();
    if find(PROBES, &OF_PROBES) {
        Role::Probe
    } else if find(FACTS, &OF_FACTS) {
        Role::Fact
    } else if find(KNOWN, &OF_KNOWN) {
        Role::Known
    } else {
        Role::Unknown
    }
}

/// True when `name` is a table or schema that describes the server itself.
pub(super) fn is_catalogue(name: &[u8]) -> bool {
    if !OF_CATALOGUES.may_hold(name) {
        return false;
    }
    let mut lower = [0_u8; NAME_MAX];
    let kept = name.len().min(NAME_MAX);
    let (Some(room), Some(head)) = (lower.get_mut(..kept), name.get(..kept)) else { return false };
    room.copy_from_slice(head);
    room.make_ascii_lowercase();
    CATALOGUES.iter().any(|known| room.starts_with(known))
}

/// Prefixes of names whose every member acts on the server.
const PROBE_PACKAGES: &[&[u8]] = &[
    b"ctxsys.",
    b"dblink_",
    b"dbms_",
    b"httpuritype",
    b"lo_export",
    b"lo_import",
    b"master.",
    b"pg_ls_dir",
    b"pg_read_",
    b"pg_sleep",
    b"sp_oa",
    b"sp_password",
    b"sp_executesql",
    b"sys.dbms_",
    b"sys.utl_",
    b"sys_e",
    b"user_lock.",
    b"utl_",
    b"xp_",
];

/// Sorted.
const PROBES: &[&[u8]] = &[
    b"benchmark",
    b"database_to_xml",
    b"dblink",
    b"extractvalue",
    b"generate_series",
    b"geometrycollection",
    b"gtid_subset",
    b"gtid_subtract",
    b"iif",
    b"is_srvrolemember",
    b"load_extension",
    b"load_file",
    b"master_pos_wait",
    b"multipoint",
    b"multipolygon",
    b"name_const",
    b"opendatasource",
    b"openquery",
    b"openrowset",
    b"polygon",
    b"query_to_xml",
    b"randomblob",
    b"regexp_substring",
    b"sleep",
    b"updatexml",
    b"writefile",
    b"xmltype",
    b"zeroblob",
];

/// Sorted.
const FACTS: &[&[u8]] = &[
    b"char",
    b"chr",
    b"current_database",
    b"current_setting",
    b"current_user",
    b"database",
    b"db_name",
    b"group_concat",
    b"nchar",
    b"session_user",
    b"sqlite_version",
    b"system_user",
    b"unhex",
    b"user",
    b"user_name",
    b"version",
];

/// Sorted.
const KNOWN: &[&[u8]] = &[
    b"ascii",
    b"avg",
    b"bin",
    b"cast",
    b"char_length",
    b"coalesce",
    b"concat",
    b"concat_ws",
    b"conv",
    b"convert",
    b"cos",
    b"count",
    b"elt",
    b"exists",
    b"exp",
    b"extract",
    b"field",
    b"floor",
    b"hex",
    b"if",
    b"ifnull",
    b"instr",
    b"isnull",
    b"json_keys",
    b"left",
    b"len",
    b"length",
    b"listagg",
    b"locate",
    b"lower",
    b"lpad",
    b"ltrim",
    b"make_set",
    b"max",
    b"md5",
    b"mid",
    b"min",
    b"mod",
    b"now",
    b"nullif",
    b"nvl",
    b"object_id",
    b"oct",
    b"ord",
    b"pi",
    b"position",
    b"power",
    b"quote",
    b"rand",
    b"repeat",
    b"replace",
    b"reverse",
    b"right",
    b"round",
    b"row",
    b"schema",
    b"sha1",
    b"sha2",
    b"sin",
    b"soundex",
    b"space",
    b"strcmp",
    b"string_agg",
    b"stuff",
    b"substr",
    b"substring",
    b"sum",
    b"to_char",
    b"trim",
    b"unicode",
    b"upper",
];

/// Prefixes.
const CATALOGUES: &[&[u8]] = &[
    b"all_tab",
    b"all_users",
    b"all_objects",
    b"all_col",
    b"dba_",
    b"information_schema",
    b"innodb_",
    b"master.",
    b"master..",
    b"msysaccess",
    b"msysobjects",
    b"mysql.",
    b"pg_catalog",
    b"pg_class",
    b"pg_database",
    b"pg_group",
    b"pg_roles",
    b"pg_shadow",
    b"pg_tables",
    b"pg_user",
    b"performance_schema",
    b"rdb$",
    b"sqlite_master",
    b"sqlite_schema",
    b"sysadm",
    b"syscolumns",
    b"sysibm",
    b"sysobjects",
    b"sysusers",
    b"sys.",
    b"systables",
    b"syscat",
    b"user_tab",
    b"user_users",
    b"user_col",
    b"v$version",
    b"v$",
    b"domain.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(PROBES.is_sorted());
        assert!(KNOWN.is_sorted());
        assert!(FACTS.is_sorted());
    }

    #[test]
    fn names_have_roles() {
        for (name, expected) in [
            ("PG_SLEEP", Role::Probe),
            ("dbms_pipe.receive_message", Role::Probe),
            ("ConCat", Role::Known),
            ("basket", Role::Unknown),
            ("a_name_longer_than_any_function_we_know", Role::Unknown),
        ] {
            assert_eq!(role(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn every_name_of_the_tables_is_found_in_any_case() {
        for name in PROBES.iter().chain(FACTS).chain(KNOWN).chain(PROBE_PACKAGES) {
            assert_ne!(role(&name.to_ascii_uppercase()), Role::Unknown, "{name:?}");
        }
        assert!(CATALOGUES.iter().all(|name| is_catalogue(&name.to_ascii_uppercase())));
    }

    #[test]
    fn catalogues_are_recognised() {
        assert!(is_catalogue(b"INFORMATION_SCHEMA.tables"));
        assert!(!is_catalogue(b"customers"));
    }
}
