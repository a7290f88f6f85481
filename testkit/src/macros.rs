//! Tests that are ignored where their server isn't installed.

/// Makes asynchronous tests of functions, ignored where the server isn't there:
///
/// ```text
/// tidings_testkit::server_tests! { etcd_3_4:
///     async fn absent_at_start() { … }
/// }
/// ```
#[macro_export]
macro_rules! server_tests {
    (consul: $($tests:tt)*) => { $crate::__with_consul! { $($tests)* } };
    (consul_and_dig: $($tests:tt)*) => { $crate::__with_consul_and_dig! { $($tests)* } };
    (etcd_3_4: $($tests:tt)*) => { $crate::__with_etcd_3_4! { $($tests)* } };
    (etcd_3_5: $($tests:tt)*) => { $crate::__with_etcd_3_5! { $($tests)* } };
    (go_naming: $($tests:tt)*) => { $crate::__with_go_naming! { $($tests)* } };
    (zookeeper_3_8: $($tests:tt)*) => { $crate::__with_zookeeper_3_8! { $($tests)* } };
    (zookeeper_3_8_and_etcd_3_4: $($tests:tt)*) => {
        $crate::__with_zookeeper_3_8_and_etcd_3_4! { $($tests)* }
    };
    (curator: $($tests:tt)*) => { $crate::__with_curator! { $($tests)* } };
}

macro_rules! define {
    ($d:tt $present:meta, $with:ident, $suite:ident, $ignored:ident, $reason:literal) => {
        /// The tests, as they are.
        #[cfg($present)]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $with {
                    ($d($d(#[$d attribute:meta])* async fn $d name:ident() $d body:block)*) => {
                        $d($d(#[$d attribute])*
                        #[test]
                        fn $d name() {
                            $crate::runtime().block_on(async $d body);
                        })*
                    };
                }

        /// The tests, all ignored.
        #[cfg(not($present))]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $with {
                    ($d($d(#[$d attribute:meta])* async fn $d name:ident() $d body:block)*) => {
                        $d($d(#[$d attribute])*
                        #[test]
                        #[ignore = $reason]
                        fn $d name() {
                            $crate::runtime().block_on(async $d body);
                        })*
                    };
                }

        /// The conformance suite, as it is.
        #[cfg($present)]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $suite {
                    ($d conformance:ident, $d name:ident, $d fixture:ty $d(, $d($d more:tt)+)?) => {
                        $d conformance::suite!($d name, $d fixture $d(, $d($d more)+)?);
                    };
                }

        /// The conformance suite, all ignored.
        #[cfg(not($present))]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $suite {
            ($d conformance:ident, $d name:ident, $d fixture:ty $d(, $d($d more:tt)+)?) => {
                mod $d name {
                    #[allow(unused_imports)]
                    use super::*;
                    use $crate::$ignored as ignored;

                    // The fixture is used all the same, so that it has to compile.
                    #[allow(dead_code)]
                    const RUN: fn(&str) = $d conformance::run::<$d fixture>;

                    $d conformance::for_each_case!(ignored);
                }
            };
        }

        /// Cases as tests that are ignored.
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $ignored {
            ($d($d case:ident)*) => {
                $d(#[test]
                #[ignore = $reason]
                fn $d case() {
                    panic!($reason);
                })*
            };
        }
    };
}

define!($ have_consul, __with_consul, __suite_consul, __ignored_consul, "consul is not installed");
define!(
    $ all(have_consul, have_dig), __with_consul_and_dig, __suite_consul_and_dig,
    __ignored_consul_and_dig, "consul or dig (Debian: bind9-dnsutils) is not installed"
);
define!(
    $ have_etcd_3_4, __with_etcd_3_4, __suite_etcd_3_4, __ignored_etcd_3_4,
    "etcd 3.4 is not installed"
);
define!(
    $ have_etcd_3_5, __with_etcd_3_5, __suite_etcd_3_5, __ignored_etcd_3_5,
    "etcd 3.5 is not installed"
);
define!(
    $ have_go_naming, __with_go_naming, __suite_go_naming, __ignored_go_naming,
    "Go and etcd's client for it are not installed"
);
define!(
    $ have_zookeeper_3_8, __with_zookeeper_3_8, __suite_zookeeper_3_8, __ignored_zookeeper_3_8,
    "ZooKeeper 3.8 is not installed"
);
define!(
    $ all(have_zookeeper_3_8, have_etcd_3_4), __with_zookeeper_3_8_and_etcd_3_4,
    __suite_zookeeper_3_8_and_etcd_3_4, __ignored_zookeeper_3_8_and_etcd_3_4,
    "ZooKeeper 3.8 or etcd 3.4 is not installed"
);
define!(
    $ have_curator, __with_curator, __suite_curator, __ignored_curator,
    "Apache Curator is not installed"
);

/// The conformance suite on a fixture that needs a server, ignored where that isn't there:
/// `server_suite!(etcd_3_4, tidings_conformance, name_of_the_module, Fixture)`, and behind that what
/// `suite!` takes behind a fixture.
#[macro_export]
macro_rules! server_suite {
    (consul, $($suite:tt)*) => { $crate::__suite_consul! { $($suite)* } };
    (etcd_3_4, $($suite:tt)*) => { $crate::__suite_etcd_3_4! { $($suite)* } };
    (etcd_3_5, $($suite:tt)*) => { $crate::__suite_etcd_3_5! { $($suite)* } };
    (zookeeper_3_8, $($suite:tt)*) => { $crate::__suite_zookeeper_3_8! { $($suite)* } };
}

/// The runtime of a test: enough workers that a task which blocks one is noticed.
#[doc(hidden)]
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
}
