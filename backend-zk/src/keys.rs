//! Where instances are kept: `/namespace/service/id`, as Apache Curator does.

use tidings_api::{InstanceId, InstanceKey, Selector, ServiceName};

/// The paths of one namespace.
///
/// An instance is the node `id` below the node of its service, with its content as data. Ids are
/// kept as they are but for `.` and `..`, which ZooKeeper refuses as names: there each dot is
/// written `%2E`.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    base: String,
}

/// What a path in the namespace is the path of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Base,
    Service(ServiceName),
    Instance(InstanceKey),
    /// A child of a service's node, with a name that no instance has.
    Unnamed(ServiceName),
    /// Outside, deeper, or with a name that no service has.
    Elsewhere,
}

impl Keys {
    /// The paths of a namespace such as `services` or `prod/services`, which is
    /// [valid](crate::ZkConfig::validate).
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            base: format!("/{namespace}"),
        }
    }

    /// The node whose children are the services.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn service(&self, service: &ServiceName) -> String {
        format!("{}/{service}", self.base)
    }

    pub(crate) fn instance(&self, key: &InstanceKey) -> String {
        let name = match key.id().as_str() {
            "." => "%2E",
            ".." => "%2E%2E",
            id => id,
        };
        format!("{}/{}/{name}", self.base, key.service())
    }

    /// The node below which everything is that `selector` selects.
    pub(crate) fn root(&self, selector: &Selector) -> String {
        match selector {
            Selector::Service(service) => self.service(service),
            Selector::All => self.base.clone(),
        }
    }

    pub(crate) fn place(&self, path: &str) -> Place {
        let Some(rest) = path.strip_prefix(&self.base) else {
            return Place::Elsewhere;
        };
        let place = match rest.strip_prefix('/') {
            None if rest.is_empty() => Some(Place::Base),
            None => None,
            Some(below) => match below.split_once('/') {
                None => ServiceName::new(below).ok().map(Place::Service),
                Some((_, name)) if name.is_empty() || name.contains('/') => None,
                Some((service, name)) => ServiceName::new(service).ok().map(|service| {
                    let key = Self::child(&service, name);
                    key.map_or(Place::Unnamed(service), Place::Instance)
                }),
            },
        };
        place.unwrap_or(Place::Elsewhere)
    }

    /// The key of the instance whose node is the child `name` of the node of `service`.
    pub(crate) fn child(service: &ServiceName, name: &str) -> Option<InstanceKey> {
        let id = match name {
            "%2E" => ".",
            "%2E%2E" => "..",
            name => name,
        };
        Some(InstanceKey::new(service.clone(), InstanceId::new(id).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> InstanceKey {
        text.parse().unwrap()
    }

    #[test]
    fn every_key_comes_back_from_its_path() {
        let keys = Keys::new("prod/services");
        for text in ["web/a", "web/.", "web/..", "a..b/10.0.0.7:80", "my.Svc/::1"] {
            let path = keys.instance(&key(text));
            assert_eq!(keys.place(&path), Place::Instance(key(text)), "{path}");
            let names: Vec<&str> = path.split('/').skip(1).collect();
            assert!(names.iter().all(|name| !matches!(*name, "" | "." | "..")));
        }
        assert_eq!(keys.instance(&key("web/.")), "/prod/services/web/%2E");
    }

    #[test]
    fn other_paths_are_told_apart() {
        let keys = Keys::new("services");
        assert_eq!(keys.place("/services"), Place::Base);
        assert_eq!(
            keys.place("/services/web"),
            Place::Service("web".parse().unwrap())
        );
        assert_eq!(
            keys.place("/services/web/a b"),
            Place::Unnamed("web".parse().unwrap())
        );
        for path in [
            "/",
            "/services2/web",
            "/services/-web",
            "/services/-web/a b",
            "/services/web/a/b",
            "/services/web/",
        ] {
            assert_eq!(keys.place(path), Place::Elsewhere, "{path}");
        }
    }
}
