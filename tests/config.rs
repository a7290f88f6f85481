//! LIM-3 and LIM-4 for configuration: one strict meaning whether it comes from a URL, TOML or the
//! environment, errors that say what is accepted, no secret shown, no input that panics.

use std::process::Command;

use proptest::prelude::*;
use tidings::{Config, DiscoveryExt, DiscoveryUrl, Error, ErrorKind};

fn from_vars(vars: &[(&str, &str)]) -> tidings::Result<Config> {
    Config::from_vars("TIDINGS_", vars.iter().copied())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: tidings::Result<T>) -> Error {
    let error = result.expect_err("this configuration is wrong");
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    error
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: tidings::Result<T>, text: &str) {
    assert_eq!(refused(result).to_string(), text);
}

mod meaning {
    use super::*;

    #[test]
    fn url_toml_and_environment_are_equal_for_memory() {
        let url = Config::try_from("memory://shop").unwrap();
        let fields = "[other]\nx = 1\n[discovery]\nbackend = \"memory\"\nname = \"shop\"";
        assert_eq!(Config::from_toml(fields).unwrap(), url);
        let in_toml = "discovery.url = \"memory://shop\"";
        assert_eq!(Config::from_toml(in_toml).unwrap(), url);
        let json = r#"{"backend": "memory", "name": "shop"}"#;
        assert_eq!(serde_json::from_str::<Config>(json).unwrap(), url);
        let fields = [
            ("TIDINGS_BACKEND", "memory"),
            ("TIDINGS_NAME", "shop"),
            ("PATH", "/bin"),
        ];
        assert_eq!(from_vars(&fields).unwrap(), url);
        assert_eq!(from_vars(&[("TIDINGS_URL", "memory://shop")]).unwrap(), url);
        assert_ne!(Config::try_from("memory://").unwrap(), url);
    }

    #[test]
    #[cfg(feature = "gossip")]
    fn url_toml_and_environment_are_equal_for_gossip() {
        let url = Config::try_from(
            "gossip://0.0.0.0:8000/prod?join=10.0.0.5&join=seed:9000&name=web-1\
             &suspicion_multiplier=5&probe_interval=200ms&probe_timeout=100ms&keys_file=/etc/keys\
             &seal=send",
        )
        .unwrap();
        let toml = r#"
            [discovery]
            backend = "gossip"
            bind = "0.0.0.0:8000"
            cluster = "prod"
            join = ["10.0.0.5", "seed:9000"]
            name = "web-1"
            suspicion_multiplier = 5
            probe_interval = "200ms"
            probe_timeout = "100ms"
            keys_file = "/etc/keys"
            seal = "send"
        "#;
        assert_eq!(Config::from_toml(toml).unwrap(), url);
        let vars = [
            ("TIDINGS_BACKEND", "gossip"),
            ("TIDINGS_BIND", "0.0.0.0:8000"),
            ("TIDINGS_CLUSTER", "prod"),
            ("TIDINGS_JOIN", "10.0.0.5, seed:9000"),
            ("TIDINGS_NAME", "web-1"),
            ("TIDINGS_SUSPICION_MULTIPLIER", "5"),
            ("TIDINGS_PROBE_INTERVAL", "200ms"),
            ("TIDINGS_PROBE_TIMEOUT", "100ms"),
            ("TIDINGS_KEYS_FILE", "/etc/keys"),
            ("TIDINGS_SEAL", "send"),
        ];
        assert_eq!(from_vars(&vars).unwrap(), url);

        let mut in_code = tidings::gossip::GossipConfig::default();
        in_code.bind = "127.0.0.1:0".parse().unwrap();
        assert_eq!(
            Config::try_from(in_code).unwrap(),
            "gossip://127.0.0.1:0".try_into().unwrap()
        );
    }

    #[test]
    fn the_environment_of_the_process_is_read() {
        const CHILD: &str = "CONFIG_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let shop = Config::try_from("memory://shop").unwrap();
            assert_eq!(Config::from_env().unwrap(), shop);
            assert_refused(
                Config::from_env_with_prefix("SHOP_"),
                "memory: unknown option \"SHOP_WINDOW\": accepted are SHOP_NAME",
            );
            return;
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "meaning::the_environment_of_the_process_is_read"])
            .env(CHILD, "1")
            .env("TIDINGS_BACKEND", "memory")
            .env("TIDINGS_NAME", "shop")
            .env("SHOP_BACKEND", "memory")
            .env("SHOP_WINDOW", "open")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && output.contains("1 passed"),
            "{output}"
        );
    }

    #[test]
    fn a_file_is_read_and_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.toml");
        let shown = path.display();
        let error = refused(Config::from_toml_file(&path));
        assert_eq!(
            error.to_string(),
            format!("read {shown}: the file can't be read")
        );
        assert!(std::error::Error::source(&error).is_some());

        std::fs::write(&path, "[discovery]\nurl = \"memory://shop\"").unwrap();
        let shop = Config::try_from("memory://shop").unwrap();
        assert_eq!(Config::from_toml_file(&path).unwrap(), shop);

        std::fs::write(&path, "[discovery]\nbackend = \"memory\"\nnmae = \"shop\"").unwrap();
        assert_refused(
            Config::from_toml_file(&path),
            &format!("memory: read {shown}: unknown option \"nmae\": accepted are name"),
        );
    }

    #[tokio::test]
    async fn memory_registries_are_shared_by_name_and_private_without() {
        let one = tidings::connect("memory://shared-by-name").await.unwrap();
        let other = tidings::connect(String::from("memory://shared-by-name"))
            .await
            .unwrap();
        let stranger = tidings::connect("memory://somebody-else").await.unwrap();
        let (private, also_private) = (
            tidings::connect("memory://").await.unwrap(),
            tidings::connect(Config::try_from("memory://").unwrap())
                .await
                .unwrap(),
        );
        one.register_at("web", "10.0.0.1:80").await.unwrap();
        private.register_at("web", "10.0.0.1:80").await.unwrap();
        assert_eq!(other.resolve("web").await.unwrap().len(), 1);
        assert_eq!(stranger.resolve("web").await.unwrap().len(), 0);
        assert_eq!(also_private.resolve("web").await.unwrap().len(), 0);
    }

    #[tokio::test]
    #[cfg(feature = "gossip")]
    async fn gossip_is_started() {
        let discovery = tidings::connect("gossip://127.0.0.1:0").await.unwrap();
        assert_eq!(discovery.status().backend(), "gossip");
        discovery.close().await.unwrap();
    }
}

mod errors {
    use super::*;

    /// What errors say about the backends that are compiled in.
    fn compiled_in() -> String {
        let all = [
            ("consul", cfg!(feature = "consul")),
            ("etcd", cfg!(feature = "etcd")),
            ("gossip", cfg!(feature = "gossip")),
            ("memory", true),
            ("zk", cfg!(feature = "zk")),
        ];
        let names = all
            .iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| *name);
        format!("(compiled in: {})", names.collect::<Vec<_>>().join(", "))
    }

    #[tokio::test]
    async fn connect_refuses_what_config_refuses() {
        assert_refused(
            tidings::connect("").await,
            "discovery url: it is empty: accepted is a URL such as \
             gossip://127.0.0.1:7946?join=seed.internal",
        );
        assert_refused(
            tidings::connect("memory://shop?nmae=x").await,
            "memory: unknown option \"nmae\": accepted are name",
        );
    }

    #[test]
    fn an_unknown_backend_names_those_compiled_in() {
        let compiled_in = compiled_in();
        let text = format!("backend \"gosip\" is unknown {compiled_in}");
        assert_refused(Config::try_from("gosip://0.0.0.0:7946"), &text);
        assert_refused(Config::from_toml("discovery.backend = \"gosip\""), &text);
        assert_refused(from_vars(&[("TIDINGS_BACKEND", "gosip")]), &text);
        let text = format!("backend \"\" is unknown {compiled_in}");
        assert_refused(from_vars(&[("TIDINGS_BACKEND", "")]), &text);
    }

    #[test]
    fn a_backend_that_is_not_compiled_in_names_its_feature() {
        let compiled_in = compiled_in();
        let absent: &[&str] = &[
            #[cfg(not(feature = "consul"))]
            "consul",
            #[cfg(not(feature = "etcd"))]
            "etcd",
            #[cfg(not(feature = "zk"))]
            "zk",
            #[cfg(not(feature = "gossip"))]
            "gossip",
        ];
        for name in absent {
            let text = format!(
                "backend \"{name}\" is not compiled in: enable the feature \"{name}\" of the crate \
                 \"tidings\" {compiled_in}"
            );
            assert_refused(Config::try_from(format!("{name}://a,b:1/x?ttl=10s")), &text);
            let toml = format!("[discovery]\nbackend = \"{name}\"\nttl = 5");
            assert_refused(Config::from_toml(&toml), &text);
        }
    }

    #[test]
    fn url_and_backend_exclude_each_other() {
        let text = "url and backend are both given: accepted is url alone, or backend with that \
                    backend's fields";
        let both = "[discovery]\nurl = \"memory://\"\nbackend = \"memory\"";
        assert_refused(Config::from_toml(both), text);
        assert_refused(
            Config::from_toml("[discovery]\nurl = \"memory://\"\nname = \"x\""),
            &text.replace("url and backend", "url and name"),
        );
        assert_refused(
            from_vars(&[("TIDINGS_URL", "memory://"), ("TIDINGS_NAME", "x")]),
            "TIDINGS_URL and TIDINGS_NAME are both given: accepted is TIDINGS_URL alone, or \
             TIDINGS_BACKEND with that backend's fields",
        );
    }

    #[test]
    fn one_of_url_and_backend_is_needed() {
        let compiled_in = compiled_in();
        assert_refused(
            Config::from_toml("[discovery]\nname = \"x\""),
            &format!("neither url nor backend is given: accepted is one of them {compiled_in}"),
        );
        assert_refused(
            from_vars(&[("PATH", "/bin")]),
            &format!(
                "neither TIDINGS_URL nor TIDINGS_BACKEND is given: accepted is one of them \
                 {compiled_in}"
            ),
        );
        assert_refused(
            Config::from_toml("[service]\nname = \"x\""),
            "toml has no table [discovery]: accepted is one with url, or with backend and its fields",
        );
    }

    #[test]
    fn toml_errors_name_the_place() {
        for (toml, text) in [
            (
                "discovery = 5",
                "[discovery]: invalid type: integer `5`, expected a table of options",
            ),
            (
                "[discovery]\nbackend = { name = \"memory\" }",
                "[discovery]: \"backend\": accepted is a text, a number, a boolean or a list of these",
            ),
            (
                "[discovery]\nbackend = [\"memory\"]",
                "backend is a list: accepted is one value",
            ),
        ] {
            assert_refused(Config::from_toml(toml), text);
        }
        for (toml, start) in [
            ("[discovery]\n\nurl = \"memory://", "toml, line 3: "),
            (
                "[discovery]\nurl = \"a\"\nurl = \"b\"",
                "toml, line 3: duplicate key",
            ),
        ] {
            let error = refused(Config::from_toml(toml)).to_string();
            assert!(error.starts_with(start) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_migration_is_a_table_of_its_own_or_a_backend() {
        let ends = "from = \"memory://a\"\nto = \"memory://b\"\nphase = \"both-read-merged\"";
        let short = Config::from_toml(&format!("[discovery.migration]\n{ends}")).unwrap();
        let long = Config::from_toml(&format!("[discovery]\nbackend = \"migration\"\n{ends}"));
        let vars = from_vars(&[
            ("TIDINGS_BACKEND", "migration"),
            ("TIDINGS_FROM", "memory://a"),
            ("TIDINGS_TO", "memory://b"),
            ("TIDINGS_PHASE", "both-read-merged"),
        ]);
        assert!(short == long.unwrap() && short == vars.unwrap());
        for (fields, text) in [
            (
                "to = \"memory://\"",
                "migration: from is missing: accepted is the url of a backend",
            ),
            (
                "from = \"memory://\"\nto = \"memory://\"\nphase = \"both\"",
                "migration: phase \"both\": accepted are old, both-read-old, both-read-merged, \
                 both-read-new, new, automatic",
            ),
            (
                "from = \"memory://\"\nto = \"migration://\"",
                "migration: to: a migration has no url: accepted is a table [discovery.migration] \
                 with from and to",
            ),
            (
                "from = \"memory://\"\nto = \"memory://\"\nstaedy = \"1s\"",
                "migration: unknown option \"staedy\": accepted are from, to, phase, name, steady",
            ),
        ] {
            let toml = format!("[discovery.migration]\n{fields}");
            assert_refused(Config::from_toml(&toml), text);
        }
    }

    #[test]
    fn variables_are_named_as_variables() {
        assert_refused(
            from_vars(&[("TIDINGS_BACKEND", "memory"), ("TIDINGS_NMAE", "x")]),
            "memory: unknown option \"TIDINGS_NMAE\": accepted are TIDINGS_NAME",
        );
        for name in ["TIDINGS_", "TIDINGS_name"] {
            assert_refused(
                from_vars(&[("TIDINGS_BACKEND", "memory"), (name, "x")]),
                &format!(
                    "unknown variable \"{name}\": accepted are TIDINGS_ and a field in upper case"
                ),
            );
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_variable_that_is_not_utf_8_is_named() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;
        let value = OsString::from_vec(vec![0xff]);
        assert_refused(
            Config::from_vars("TIDINGS_", [("TIDINGS_URL", value)]),
            "\"TIDINGS_URL\" is not UTF-8",
        );
    }

    #[test]
    #[cfg(feature = "gossip")]
    fn values_are_named_with_what_is_accepted() {
        let keys = "bind, advertise, join, observe, name, cluster, join_wait, probe_interval, \
                    probe_timeout, suspicion_multiplier, leave_timeout, loss_hold, state, \
                    keys, keys_file, seal";
        for (url, text) in [
            ("gossip://?jion=a", format!("gossip: unknown option \"jion\": accepted are {keys}")),
            (
                "gossip://?suspicion_multiplier=21",
                "gossip: suspicion_multiplier 21: accepted are 1 to 20".into(),
            ),
            (
                "gossip://?join_wait=5",
                "gossip: join_wait \"5\": accepted is a duration with its unit, such as 500ms, 10s \
                 or 1m 30s"
                    .into(),
            ),
            (
                "gossip://127.0.0.1:65536",
                "discovery url: port \"65536\" of host 127.0.0.1: accepted are 0 to 65535".into(),
            ),
            (
                "gossip://?name=a&name=b",
                "gossip: name: a list of 2: accepted is one value, given once".into(),
            ),
        ] {
            assert_refused(Config::try_from(url), &text);
        }
        let duplicate = "[discovery]\nbackend = \"gossip\"\nname = [\"a\", \"b\"]";
        assert_refused(
            Config::from_toml(duplicate),
            "gossip: name: a list of 2: accepted is one value, given once",
        );
        assert_refused(
            from_vars(&[
                ("TIDINGS_BACKEND", "gossip"),
                ("TIDINGS_BIND", "127.0.0.1:x"),
            ]),
            "gossip: TIDINGS_BIND \"127.0.0.1:x\": port (no number) of host 127.0.0.1: accepted \
             are 0 to 65535",
        );
        let mut config = tidings::gossip::GossipConfig::default();
        config.cluster = "a b".into();
        assert_refused(
            Config::try_from(config),
            "gossip: cluster \"a b\" (3 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._:-",
        );
    }

    #[test]
    fn memory_accepts_a_name_and_nothing_else() {
        for url in ["memory://u@a", "memory://a,b", "memory://a/b"] {
            assert_refused(
                Config::try_from(url),
                "memory: user, path or a second host in the url: accepted are memory://NAME and \
                 memory://",
            );
        }
        assert_refused(
            Config::try_from("memory://a?name=b"),
            "memory: name is given twice: as the host of the url and as an option",
        );
        assert_refused(
            Config::try_from("memory://?name=a%20b"),
            "memory: name \"a b\" (3 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._:-",
        );
    }

    #[test]
    fn no_secret_is_shown() {
        const SECRET: &str = "hunter2";
        // Whether it is refused depends on what is compiled in.
        let either = |read: tidings::Result<Config>| match read {
            Ok(config) => format!("{config:?}"),
            Err(error) => format!("{error:?}"),
        };
        let mut shown = Vec::new();
        for url in [
            "etcd://root:hunter2@a:2379/prod",
            "etcd://root:hunter2/@a:2379/prod",
            "memory://root:hunter2@a",
            "gossip://root:hunter2@127.0.0.1:1",
            "gosip://root:hunter2@127.0.0.1:1?token=hunter2",
            "memory://a?password=hunter2",
            "memory://a?password=hunter2&password=hunter2",
            "root:hunter2@a",
        ] {
            shown.push(either(Config::try_from(url)));
            shown.push(either(from_vars(&[("TIDINGS_URL", url)])));
            let toml = format!("[discovery]\nurl = \"{url}\"");
            shown.push(either(Config::from_toml(&toml)));
            if let Ok(url) = url.parse::<DiscoveryUrl>() {
                shown.push(format!("{url:?}"));
            }
        }
        for toml in [
            "[discovery]\npassword = \"hunter2",
            "[discovery]\npassword = hunter2",
            "[discovery]\npassword = \"a\"\npassword = \"hunter2\"",
            "[discovery]\nbackend = \"memory\"\npassword = \"hunter2\"",
            "[discovery]\nbackend = \"memory\"\npassword = { text = \"hunter2\" }",
        ] {
            shown.push(format!("{:?}", refused(Config::from_toml(toml))));
        }
        for text in shown {
            assert!(!text.contains(SECRET), "{text}");
        }
    }
}

mod any_input {
    use super::*;

    /// Texts that are almost a discovery URL, so that every part of the parser is reached: each part
    /// is right or junk, and a character is put in anywhere.
    fn url_like() -> impl Strategy<Value = String> {
        let junk = || "[a-z0-9%@:,/?&=+.\\[\\]é-]{0,8}";
        let scheme = prop_oneof![8 => "(gossip|memory|etcd)://", 1 => junk()];
        let user = prop_oneof![4 => "", 2 => "u(:p)?@", 1 => junk()];
        let hosts =
            prop_oneof![6 => "(a|10\\.0\\.0\\.1|\\[::1\\])(:[0-9]{1,6})?(,b:1)?", 1 => junk()];
        let path = prop_oneof![2 => "", 2 => "/[a-z]{1,5}", 2 => junk()];
        let options =
            prop_oneof![1 => "", 2 => "\\?(name|join)=[a-z,]{0,3}", 3 => "\\?[a-z%0-9&=]{1,8}"];
        let parts = (scheme, user, hosts, path, options);
        let insertion = (
            any::<prop::sample::Index>(),
            prop::option::weighted(0.2, any::<char>()),
        );
        (parts, insertion).prop_map(|((scheme, user, hosts, path, options), (at, extra))| {
            let mut text: Vec<_> = format!("{scheme}{user}{hosts}{path}{options}")
                .chars()
                .collect();
            let at = at.index(text.len() + 1);
            text.splice(at..at, extra);
            text.into_iter().collect()
        })
    }

    fn encoded(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_url_panics(text in prop_oneof![1 => any::<String>(), 4 => url_like()]) {
            let url = text.parse::<DiscoveryUrl>();
            let _ = format!("{url:?}");
            match Config::try_from(text) {
                Ok(config) => { let _ = format!("{config:?}"); }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::InvalidConfig),
            }
        }
    }

    proptest! {
        #[test]
        fn no_toml_panics(text in any::<String>(), key in "[a-z_]{0,8}", value in any::<String>()) {
            let _ = Config::from_toml(&text);
            let _ = Config::from_toml(&format!("[discovery]\nbackend = \"gossip\"\n{key} = {value}"));
        }

        #[test]
        fn no_variables_panic(key in any::<String>(), value in any::<String>()) {
            let key = format!("TIDINGS_{}", key.to_uppercase());
            let _ = from_vars(&[("TIDINGS_BACKEND", "gossip"), (&key, &value)]);
            let _ = from_vars(&[("TIDINGS_BACKEND", &value)]);
        }

        #[test]
        fn what_is_percent_encoded_comes_back(
            user in any::<String>(),
            password in any::<String>(),
            path in any::<String>(),
            key in ".{1,20}",
            value in any::<String>(),
        ) {
            prop_assume!(!user.is_empty());
            let url: DiscoveryUrl = format!(
                "etcd://{}:{}@[::1]:1/{}?{}={}",
                encoded(&user), encoded(&password), encoded(&path), encoded(&key), encoded(&value),
            ).parse().unwrap();
            prop_assert_eq!(url.user(), Some(user.as_str()));
            prop_assert_eq!(url.password().unwrap().expose(), password);
            prop_assert_eq!(url.path(), path);
            let mut options = url.options().clone();
            prop_assert_eq!(options.take(&key).unwrap(), Some(value));
        }
    }
}
