use super::*;

#[test]
fn every_pattern_compiles() {
    for (patterns, count) in COUNTS {
        assert_eq!(patterns.len(), *count);
    }
}

#[test]
fn card_numbers_are_told_by_issuer_length_and_check_digit() {
    for (text, label) in [
        ("4111111111111111", "visa"),
        ("Card: 4111 1111 1111 1111.", "visa"),
        (r#"{"pan":"5555-5555-5555-4444"}"#, "mastercard"),
        ("2223003122003222", "mastercard"),
        ("378282246310005", "american express"),
        ("3782 822463 10005", "american express"),
        ("<td>6011111111111117</td>", "discover"),
        ("3530111333300000", "jcb"),
        ("30569309025904", "diners club"),
        ("6200000000000005", "unionpay"),
        ("1 4111111111111111", ""),
        ("4111111111111112", ""),
        ("order 1234567890123456", ""),
        ("1795249371818840", ""),
        ("4111-1111 1111 1111", ""),
        ("41 11 11 11 11 11 11 11", ""),
        ("id_4111111111111111", ""),
        ("4111111111111111a", ""),
        ("0000000000000000", ""),
        ("12345678901234567890123456", ""),
        ("4111111111111111222", ""),
        ("123e4567-e89b-42d3-a456-426614174000", ""),
        ("/files/4111111111111111/x", ""),
        ("+49 4111 1111111", ""),
    ] {
        let found = find(Leak::CardNumbers, text.as_bytes());
        assert_eq!(found.as_ref().map_or("", |found| found.label), label, "{text}");
        if let Some(found) = found {
            assert!(found.sample.starts_with('…') && found.sample.contains("digits"), "{}", found.sample);
        }
    }
}

const PEM: &str = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAx4UbaDzY5xjW6hc9jwN0mX33XpTDVW9WqHp5AKaRbtAC\n3D";

#[test]
fn each_kind_is_found() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    let aws_secret = "aws_secret_access_key = \"wJalrXUtnFEMIaK7MDENGabPxRfiCYzzzzzzKEYq\"";
    let hex36 = "0123456789abcdefghijABCDEFGHIJ012345";
    for (leak, text, label) in [
        (Leak::PrivateKeys, PEM.to_owned(), "pem"),
        (Leak::PrivateKeys, PEM.replace('\n', "\\n"), "pem"),
        (Leak::AwsKeys, "key=AKIAQWERTYUIOPASDFGH;".to_owned(), "access key id"),
        (Leak::AwsKeys, aws_secret.to_owned(), "secret access key"),
        (Leak::GithubTokens, format!("ghp_{hex36}"), "token"),
        (Leak::ServiceTokens, "glpat-abcdefghij0123456789".to_owned(), "gitlab"),
        (Leak::ServiceTokens, ["xoxb", "-123456789012-1234567890123-abcdefghij"].concat(), "slack"),
        (Leak::ServiceTokens, ["sk_", "live_0123456789abcdefghijABCD"].concat(), "stripe"),
        (Leak::ServiceTokens, format!("npm_{hex36}"), "npm"),
        (Leak::Jwt, jwt.to_owned(), "jwt"),
        (Leak::StackTraces, "x\n\tat com.acme.shop.Cart.add(Cart.java:42)".to_owned(), "java"),
        (
            Leak::StackTraces,
            "Traceback (most recent call last):\n  File \"/app/x.py\", line 3, in f".to_owned(),
            "python",
        ),
        (Leak::StackTraces, "<b>Fatal error</b>: boom in <b>/var/www/a.php</b> on line <b>7</b>".to_owned(), "php"),
        (Leak::StackTraces, "\n   at Shop.Cart.Add(Int32 n) in C:\\src\\Cart.cs:line 12".to_owned(), "dotnet"),
        (Leak::StackTraces, "TypeError: x is null\n    at f (/srv/app.js:10:15)".to_owned(), "node"),
        (Leak::StackTraces, "panic: oh\n\ngoroutine 1 [running]:\nmain.main()".to_owned(), "go"),
        (Leak::StackTraces, "/srv/app/models/user.rb:12:in `find'".to_owned(), "ruby"),
        (
            Leak::SqlErrors,
            "You have an error in your SQL syntax; check the manual that corresponds to your MySQL".to_owned(),
            "mysql",
        ),
        (Leak::SqlErrors, "ERROR:  syntax error at or near \"'\" at character 3".to_owned(), "postgresql"),
        (Leak::SqlErrors, "Unclosed quotation mark after the character string ''.".to_owned(), "sql server"),
        (Leak::SqlErrors, "ORA-00933: SQL command not properly ended".to_owned(), "oracle"),
        (Leak::SqlErrors, "near \"FROM\": syntax error".to_owned(), "sqlite"),
        (Leak::SqlErrors, "DB2 SQL Error: SQLCODE=-104".to_owned(), "db2"),
    ] {
        let found = find(leak, text.as_bytes());
        assert_eq!(found.as_ref().map(|found| found.label), Some(label), "{text}");
        let padded = format!("<p>{}</p>\n{text}", "x ".repeat(200));
        let found = find(leak, padded.as_bytes()).unwrap();
        assert!(found.at > 300, "{padded}");
    }
}

#[test]
fn ordinary_pages_leak_nothing() {
    let page = r#"<html><body><h1>Order 4929-1201-77</h1><p>Tracking 9400111899223100287612, invoice 2026-11-0000451.</p>
        <p>Session 7b1c7cf4-2c7e-4a51-9f3c-0d1f5e9d9b11 at 2026-11-21T12:00:00.123456Z (1795249371818840).</p>
        <p>Call +1 415 555 2671 or +49 30 901820. IBAN DE89370400440532013000. ISBN 978-3-16-148410-0.</p>
        <script src="/app.min.js?v=4111111111111112" integrity="sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K"></script>
        <p>Looking at the Error: page? Visit us at example.com:8080. Write "at home (near Paris)".</p>
        <pre>-----BEGIN PRIVATE KEY-----
        (your key here)
        -----END PRIVATE KEY-----</pre>
        <p>Set AKIAIOSFODNN7EXAMPLE and aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY</p>
        <p>The SQL keyword SELECT; syntax errors happen. ORA-cle of Delphi. Traceback is a word.</p></body></html>"#;
    for leak in [
        Leak::CardNumbers,
        Leak::PrivateKeys,
        Leak::AwsKeys,
        Leak::GithubTokens,
        Leak::ServiceTokens,
        Leak::Jwt,
        Leak::StackTraces,
        Leak::SqlErrors,
    ] {
        assert_eq!(find(leak, page.as_bytes()), None, "{leak:?}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    let found = find(Leak::AwsKeys, b"AKIAQWERTYUIOPASDFGH").unwrap();
    assert_eq!(found.sample, "AKIA…DFGH (20 bytes)");
    let found = find(Leak::CardNumbers, b"4111111111111111").unwrap();
    assert_eq!(found.sample, "…1111 (16 digits)");
    assert!(find(Leak::PrivateKeys, PEM.as_bytes()).unwrap().sample.starts_with("----…"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        for leak in [Leak::CardNumbers, Leak::StackTraces] {
            drop(find(leak, &text));
        }
    }
}
