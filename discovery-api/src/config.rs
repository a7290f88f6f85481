//! How a backend reads its configuration: one strict way from text to a struct.
//!
//! The options of a [URL](crate::DiscoveryUrl), environment variables and a TOML table all become
//! [`Options`], and [`from_options`] reads these into the backend's own struct. So a backend says
//! once, as fields, what it accepts:
//!
//! ```
//! use std::time::Duration;
//! use tidings_api::config::{self, Options, Secret};
//!
//! #[derive(Debug, Default, serde::Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Config {
//!     endpoints: Vec<String>,
//!     #[serde(with = "config::duration")]
//!     ttl: Duration,
//!     password: Option<Secret>,
//! }
//!
//! let mut options = Options::default();
//! options.add("endpoints", "a:2379,b:2379");
//! options.add("ttl", "10s");
//! let config: Config = config::from_options(&options)?;
//! assert_eq!(config.endpoints, ["a:2379", "b:2379"]);
//!
//! options.add("tll", "10s");
//! assert_eq!(
//!     config::from_options::<Config>(&options).unwrap_err().to_string(),
//!     r#"unknown option "tll": accepted are endpoints, ttl, password"#
//! );
//! # Ok::<(), tidings_api::Error>(())
//! ```
//!
//! What serde can't know, such as ranges, is checked afterwards with [`check_range`],
//! [`check_duration`] and [`check_name`], whose errors read alike.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

mod deserializer;
pub mod duration;

mod options;
pub use options::Options;

mod secret;
use secret::SECRET;
pub use secret::Secret;

pub use crate::name::shown;

/// Reads options into a configuration struct.
///
/// Whole numbers, floats, booleans (`true`, `false`) and names of enum variants are parsed from
/// their text, lists are split at commas, and an option that is there is `Some`. Give the struct
/// `#[serde(default, deny_unknown_fields)]`.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) that names the key, the value (unless it is a
/// [`Secret`]) and what is accepted.
pub fn from_options<T: DeserializeOwned>(options: &Options) -> Result<T> {
    T::deserialize(deserializer::Table::new(options.values()))
        .map_err(|fault| fault.into_error(options))
}

/// Checks a number against its range.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) that names the field, the value and the range.
pub fn check_range<T>(field: &str, value: T, range: RangeInclusive<T>) -> Result<()>
where
    T: PartialOrd + Display + Copy,
{
    if range.contains(&value) {
        return Ok(());
    }
    let (first, last) = range.into_inner();
    Err(Error::invalid_config(format!(
        "{field} {value}: accepted are {first} to {last}"
    )))
}

/// Checks a duration against its range. Every duration needs an upper end: adding an endless one
/// to the clock panics.
///
/// # Errors
/// As [`check_range`].
pub fn check_duration(field: &str, value: Duration, range: RangeInclusive<Duration>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let text = humantime::format_duration;
    Err(Error::invalid_config(format!(
        "{field} {}: accepted are {} to {}",
        text(value),
        text(*range.start()),
        text(*range.end())
    )))
}

/// Checks the name of something other than an instance, such as a cluster or a namespace: 1–128
/// of `A-Za-z0-9._:-`.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) that names the field, the value and the rule.
pub fn check_name(field: &str, text: &str) -> Result<()> {
    crate::name::check(field, text, "._:-", false)
        .map_err(|error| Error::invalid_config(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Everything {
        flag: bool,
        count: u16,
        signed: Option<i64>,
        share: f64,
        name: Option<String>,
        list: Vec<String>,
        numbers: Vec<u8>,
        pair: (u8, u8),
        mode: Mode,
        #[serde(with = "duration")]
        wait: Duration,
        #[serde(with = "duration")]
        limit: Option<Duration>,
        password: Option<Secret>,
        tokens: Vec<Secret>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        Fast,
        Safe,
    }

    fn options<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Options {
        let mut options = Options::default();
        for (key, value) in pairs {
            options.add(key, value);
        }
        options
    }

    fn error(pairs: &[(&str, &str)]) -> String {
        let error = from_options::<Everything>(&options(pairs.iter().copied())).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidConfig);
        error.to_string()
    }

    #[test]
    fn every_kind_of_field_is_read_from_text() {
        let read: Everything = from_options(&options([
            ("flag", "true"),
            ("count", "65535"),
            ("signed", "-1"),
            ("share", "0.5"),
            ("name", "a,b"),
            ("list", "a, b"),
            ("numbers", "1,2"),
            ("numbers", "3"),
            ("pair", "7,8"),
            ("mode", "safe"),
            ("wait", "1m 30s"),
            ("limit", "500ms"),
            ("password", "hunter2"),
            ("tokens", "one,two"),
        ]))
        .unwrap();
        let expected = Everything {
            flag: true,
            count: 65535,
            signed: Some(-1),
            share: 0.5,
            name: Some("a,b".into()),
            list: vec!["a".into(), "b".into()],
            numbers: vec![1, 2, 3],
            pair: (7, 8),
            mode: Mode::Safe,
            wait: Duration::from_secs(90),
            limit: Some(Duration::from_millis(500)),
            password: Some("hunter2".into()),
            tokens: vec!["one".into(), "two".into()],
        };
        assert_eq!(read, expected);
        assert!(!format!("{read:?} {:?}", options([("password", "hunter2")])).contains("hunter2"));
    }

    #[test]
    fn absent_options_are_defaults_and_an_empty_list_is_one() {
        let read: Everything = from_options(&options([("list", ""), ("numbers", " ")])).unwrap();
        assert_eq!(read, Everything::default());
    }

    #[test]
    fn other_formats_give_the_same() {
        let json = r#"{"flag": true, "count": 5, "share": 2.0, "list": ["a", "b,c"], "name": "x"}"#;
        let read: Everything = from_options(&serde_json::from_str(json).unwrap()).unwrap();
        let expected = Everything {
            flag: true,
            count: 5,
            share: 2.0,
            list: vec!["a".into(), "b,c".into()],
            name: Some("x".into()),
            ..Everything::default()
        };
        assert_eq!(read, expected);
        for (json, part) in [
            (
                r#"{"name": {"a": [1]}, "flag": true}"#,
                "\"name\": accepted is a text, a number",
            ),
            (r#"{"list": [["a"]]}"#, "\"list\": accepted is a text"),
            (r#"{"name": null}"#, "\"name\": accepted is a text"),
            (r#"{"name": "a", "name": "b"}"#, "\"name\" is given twice"),
            ("[]", "expected a table of options"),
        ] {
            let error = serde_json::from_str::<Options>(json)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
        let float: Options = serde_json::from_str(r#"{"count": 5.0}"#).unwrap();
        assert!(from_options::<Everything>(&float).is_err());
    }

    #[test]
    fn an_error_names_the_key_the_value_and_what_is_accepted() {
        let durations = "accepted is a duration with its unit, such as 500ms, 10s or 1m 30s";
        for (key, value, text) in [
            ("flag", "yes", "flag \"yes\": accepted are true and false"),
            (
                "count",
                "70000",
                "count \"70000\": accepted is a whole number from 0 to 65535",
            ),
            (
                "count",
                "",
                "count \"\": accepted is a whole number from 0 to 65535",
            ),
            ("share", "NaN", "share \"NaN\": accepted is a number"),
            (
                "numbers",
                "1,256",
                "numbers \"256\": accepted is a whole number from 0 to 255",
            ),
            ("list", "a,,b", "list \"a,,b\": the list has an empty item"),
            ("pair", "1,2,3", "pair \"1,2,3\": 1 too many"),
            (
                "pair",
                "1",
                "pair \"1\": 1 given: accepted is a tuple of size 2",
            ),
            ("mode", "slow", "mode \"slow\": accepted are fast, safe"),
            ("wait", "10", &format!("wait \"10\": {durations}")),
            ("limit", "soon", &format!("limit \"soon\": {durations}")),
            (
                "limit",
                "99999999999999999y",
                &format!("limit \"99999999999999999y\": {durations}"),
            ),
        ] {
            assert_eq!(error(&[(key, value)]), text);
        }
        assert_eq!(
            error(&[("name", "a"), ("name", "b")]),
            "name: a list of 2: accepted is one value, given once"
        );
        assert_eq!(
            error(&[("nam\ne", "a")]),
            "unknown option \"nam\\ne\": accepted are flag, count, signed, share, name, list, \
             numbers, pair, mode, wait, limit, password, tokens"
        );
    }

    #[test]
    fn errors_of_variables_spell_them_as_variables() {
        let mut options = Options::from_variables("APP_");
        options.add("count", "x");
        assert_eq!(
            from_options::<Everything>(&options)
                .unwrap_err()
                .to_string(),
            "APP_COUNT \"x\": accepted is a whole number from 0 to 65535"
        );
        options.add("cuont", "1");
        options.take("count").unwrap();
        let error = from_options::<Everything>(&options)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("unknown option \"APP_CUONT\": accepted are APP_FLAG, APP_COUNT")
        );
    }

    #[test]
    fn secrets_stay_out_of_errors() {
        let twice = [("password", "hunter2"), ("password", "hunter3")];
        assert_eq!(
            error(&twice),
            "password: a list of 2: accepted is one value, given once"
        );
        let empty_item = error(&[("tokens", "hunter2,,hunter3")]);
        assert_eq!(empty_item, "tokens: the list has an empty item");

        /// A secret with a rule of its own.
        #[derive(Debug, Deserialize)]
        #[serde(try_from = "Secret")]
        struct LongSecret;

        impl TryFrom<Secret> for LongSecret {
            type Error = &'static str;
            fn try_from(_: Secret) -> Result<Self, &'static str> {
                Err("accepted are 16 bytes and more")
            }
        }

        #[derive(Debug, Deserialize)]
        struct Keys {
            #[serde(rename = "key")]
            _key: LongSecret,
        }
        let error = from_options::<Keys>(&options([("key", "hunter2")])).unwrap_err();
        assert_eq!(error.to_string(), "key: accepted are 16 bytes and more");
        let error = from_options::<Keys>(&Options::default()).unwrap_err();
        assert_eq!(error.to_string(), "key is missing");
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        assert!(check_range("weight", 20, 1..=20).is_ok());
        assert_eq!(
            check_range("weight", 0, 1..=20).unwrap_err().to_string(),
            "weight 0: accepted are 1 to 20"
        );
        let second = Duration::from_secs(1);
        assert_eq!(
            check_duration("wait", second * 90, Duration::ZERO..=second)
                .unwrap_err()
                .to_string(),
            "wait 1m 30s: accepted are 0s to 1s"
        );
        assert_eq!(
            check_name("cluster", "a/b").unwrap_err().to_string(),
            "cluster \"a/b\" (3 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._:-"
        );
    }

    #[test]
    fn an_option_from_another_part_of_the_url_must_not_be_there_twice() {
        let mut options = options([("bind", "a")]);
        let error = options.set("bind", "b", "the host").unwrap_err();
        assert_eq!(
            error.to_string(),
            "bind is given twice: as the host and as an option"
        );
        options.set("name", "b", "the path").unwrap();
        assert_eq!(options.take("name").unwrap().as_deref(), Some("b"));
        options.add("bind", "c");
        assert!(options.take("bind").is_err());
    }
}
