use proptest::prelude::*;

use super::*;
use crate::detect::confirm::testing;
use crate::detect::{Context, Kind, Source, View};

fn convicts(text: &str) -> bool {
    fragment(&testing::query(text)).is_some()
}

#[test]
fn what_an_interpreter_would_run_is_found() {
    for text in [
        // breakouts and conditions
        "5 or 8=8",
        "5or 8=8",
        "x' or 'y'='y",
        "x') or ('y'='y",
        "x\" or 4<5 -- ",
        "' or ''='",
        "nobody' or '",
        "5 and length(name)>4",
        "5) and (select 1)>0",
        "x' and pin is null; --",
        "x' || (select pin from vault) || '",
        "5 rlike (select sleep(4))",
        "' or 5 between 4 and 6",
        "5 or 'a' in ('a','b')",
        "'{\"a\":1}'::jsonb @> '{\"a\":1}' or '{\"b\":2}'::jsonb @> '{\"b\":2}'",
        "hello and 4=4",
        // comments that cut the statement
        "editor'--",
        "editor') #",
        "editor'/*",
        "'; --",
        "4; use vault;",
        "4';use vault--",
        "4; if not exists(select 4) drop table vault",
        // glue
        "'-'",
        "a'+'b",
        "'=0#",
        "'+sleep(4)+'",
        // queries
        "-1 union select 1,2",
        "-1 union all select null--",
        "-1 union(select 1)",
        "-1 union/**/select/**/pin from vault",
        "-1 /*!50000union*//*!50000select*/ 1",
        "-1#x\nunion#y\nselect 1",
        "-1\u{a0}union\u{b}select\u{c}1\r,2",
        "1.e(1)or 1.e(1)=1.e(1)union.e(1) select 1",
        "(4)and(select(1)from(vault)where(length(`pin`)>(5)))",
        "un/**/ion",
        "4' order by 7-- -",
        "4 order by 1,2,3",
        "4 having 1=1",
        "4 procedure analyse(4,4)",
        "' into outfile '/tmp/a' -- ",
        // statements
        "4;drop table staff",
        "4; insert into staff values (4)",
        "';delete from staff--",
        "'; exec xp_cmdshell 'dir'",
        "exec('sel'+'ect 1')",
        "';shutdown--",
        "4;declare @a int",
        "x' waitfor delay '0:0:4",
        "4;if(1=1) waitfor delay '0:0:4'",
        "if(now()=sysdate(),sleep(4),0)",
        "4-if(1=1,sleep(4),0)",
        "4;shutdown with nowait",
        "4' union table staff-- -",
        "4 union values row(4,9)",
        "'; load data infile '/etc/hosts' into table x",
        // calls
        "pg_sleep(4)",
        "sleep(4)#",
        "4-benchmark(9,md5(4))",
        "updatexml(1,concat(0x7e,version()),1)",
        "'||utl_http.request('h')||'",
        "char(72)+char(73)",
        "hex(user())",
        // forms that were not decoded, aliases, whole statements
        "4+or+4+=+4",
        "asd'+or+true+--+a",
        "-1 union select pin p from vault",
        "' != '",
        "insert into staff (a) values (4)",
        "update staff set pin = 4",
        "delete from staff where id = 4",
        "select * from staff;",
        "4*4/*",
        "((4))--",
    ] {
        assert!(convicts(text), "{text}");
    }
}

#[test]
fn what_people_write_is_left_alone() {
    for text in [
        "",
        "select a plan from our list",
        "Select one (or more) from the list",
        "it's 5 o'clock or 6",
        "O'Brien and O'Neill",
        "the boys' and girls' changing rooms",
        "16\" or 18\" necklace",
        "\"red dress\" and \"blue\"",
        "rock 'n' roll",
        "the '-' sign or the '+' sign",
        "union station select seating",
        "western union, select any branch",
        "drop table lamp",
        "delete from cart help",
        "if (late) sleep (well)",
        "credit union table booking",
        "the shutdown with notice",
        "order by phone",
        "order by 5 pm for delivery",
        "group by age",
        "where 5 of us met",
        "having fun with 3 friends",
        "5 > 3 and 2 < 4",
        "status = 'open' and owner = 'me'",
        "price > 5 or price < 3",
        "project = ABC AND status in (Open, \"In Progress\") ORDER BY created DESC",
        "1; exec will create the case 7",
        "select 1 from a",
        "call me (maybe)",
        "await sleep(5); next()",
        "benchmark (cpu)",
        "if (a) begin",
        "let a = b || c; if (d && e) { f(); }",
        "# heading\n\nsome text -- with a dash",
        "C# and F#",
        "use strict;\nuse warnings;\n",
        "use Fcntl; use NDBM_File; use DB_File;",
        "\"\"\"\n    if not list:\n        return",
        "--verbose --output file",
        "/* a comment */ body { color: red }",
        "a = b ? 'c' : 'd'",
        "INSERT coin INTO the slot",
        "update your profile and set a picture",
        "create table reservations for 4",
        "between 3 and 5",
        "100% cotton and 5% silk",
        "char broiled (medium)",
        "user (guest)",
        "c++ and a+b+c",
        "insert into the slot",
        "select * from the list",
        "4*4",
    ] {
        assert!(!convicts(text), "{text}");
    }
}

#[test]
fn the_value_of_a_cookie_begins_behind_its_name() {
    let place = Context { source: Source::Header, name: "sort".into(), kind: Kind::Cookie };
    for (text, expected) in [("sort= order by 9-- ", true), ("sort=order by phone", false), ("a and 4=5", false)] {
        let candidate = Candidate {
            text,
            end: 0,
            view: View::Decoded,
            context: &place,
            raw: text,
            work: testing::work(text.len()),
        };
        assert_eq!(fragment(&candidate).is_some(), expected, "{text}");
    }
}

#[test]
fn an_old_fragment_behind_much_prose_is_found() {
    let prose = "all work and no play makes for a dull day. ".repeat(400);
    assert!(convicts(&format!("{prose}' union select pin from vault--")));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let found = fragment(&testing::query(&text));
        prop_assert!(found.is_none_or(|range| text.get(range).is_some()));
    }

    #[test]
    fn no_fragment_makes_it_panic(parts in prop::collection::vec(0..30_usize, 0..60)) {
        let pieces = [
            "'", "\"", "`", "(", ")", "or ", "and ", "union ", "select ", "/*", "*/", "/*!50000", "--", "#", "\n", ";", "1", "0x",
            "1.e", "a", ".", ",", "=", "||", "sleep(", "case when ", "order by ", "\u{2019}", "\u{e9}", "@",
        ];
        let text: String = parts.iter().map(|part| pieces[*part]).collect();
        let found = fragment(&testing::query(&text));
        prop_assert!(found.is_none_or(|range| text.get(range).is_some()));
    }
}
