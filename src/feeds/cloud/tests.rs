use super::*;
use crate::model::addr::ClientAddr;
use crate::model::place::CloudSelectors;

fn shown(ranges: Result<Ranges, String>) -> Result<Vec<String>, String> {
    let show = |(net, region): (IpNet, Option<String>)| match region {
        Some(region) => format!("{net}|{region}"),
        None => net.to_string(),
    };
    ranges.map(|ranges| ranges.into_iter().map(show).collect())
}

#[test]
fn published_formats_are_read() {
    for (provider, text, expected) in [
        (
            Provider::Aws,
            r#"{"prefixes":[{"ip_prefix":"3.5.0.0/16","region":"eu-west-1","service":"AMAZON"},
                {"ip_prefix":"3.5.1.0/24","region":"eu-west-1","service":"S3"}],
                "ipv6_prefixes":[{"ipv6_prefix":"2600:1f00::/24","region":"us-east-1","service":"AMAZON"}]}"#,
            &["3.5.0.0/16|eu-west-1", "2600:1f00::/24|us-east-1"][..],
        ),
        (
            Provider::Gcp,
            r#"{"prefixes":[{"ipv4Prefix":"34.1.0.0/20","service":"Google Cloud","scope":"europe-west1"},
                {"ipv6Prefix":"2600:1900::/35","scope":"us-central1"}]}"#,
            &["34.1.0.0/20|europe-west1", "2600:1900::/35|us-central1"],
        ),
        (
            Provider::Azure,
            r#"{"values":[{"name":"AzureCloud","properties":{"addressPrefixes":["4.144.0.0/17","2603:1000::/24"]}},
                {"name":"Sql","properties":{"addressPrefixes":["9.9.9.0/24"]}}]}"#,
            &["4.144.0.0/17", "2603:1000::/24"],
        ),
        (Provider::Vultr, r#"{"subnets":[{"ip_prefix":"45.63.0.0/20"},{"ip_prefix":"bad"}]}"#, &["45.63.0.0/20"]),
        (
            Provider::DigitalOcean,
            "# a comment\n\n104.131.0.0/18,US,US-NY,New York,\nbad,US\n2604:a880::/32,US,,,\n",
            &["104.131.0.0/18", "2604:a880::/32"],
        ),
        (Provider::Aws, "10.0.0.0/8|eu-west-1\n11.0.0.0/8\n", &["10.0.0.0/8|eu-west-1", "11.0.0.0/8"]),
    ] {
        assert_eq!(shown(parse(provider, text)), Ok(expected.iter().map(|net| (*net).to_owned()).collect()));
    }
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused() {
    for (provider, text, expected) in [
        (
            Provider::Aws,
            r#"{"prefixes":[{"ip_prefix":"3.5.0.1/16","region":"x","service":"AMAZON"}]}"#,
            "`3.5.0.1/16` is not a network",
        ),
        (Provider::Aws, r#"{"prefixes":[]}"#, "holds no ranges of AWS"),
        (Provider::Azure, "10.0.0.0/8\nnonsense\n", "line 2: `nonsense` is not a network"),
        (Provider::Linode, "nonsense\n", "holds no ranges of Linode"),
        (Provider::Linode, "{}", "Linode publishes no JSON"),
    ] {
        assert_eq!(parse(provider, text).unwrap_err(), expected);
    }
    assert!(parse(Provider::Gcp, "{").unwrap_err().starts_with("line 1, column 1: "));
}

#[test]
fn a_folder_is_read_as_far_as_possible() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("AWS.txt"), "203.0.113.0/24|eu-west-1\n").unwrap();
    std::fs::write(folder.path().join("GCP.json"), "{").unwrap();
    let (ranges, messages) = load(folder.path());
    assert_eq!(messages.len(), 1, "{messages:?}");
    let (selectors, _) = CloudSelectors::parse(["AWS", "GCP"]);
    let addr: ClientAddr = "203.0.113.7".parse::<std::net::IpAddr>().unwrap().into();
    assert_eq!(selectors.find(&ranges, addr).map(|(provider, _)| provider), Some(Provider::Aws));
    assert_eq!(load(&folder.path().join("absent")).1.len(), 1);
}
