//! Options as text.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::shown;
use crate::{Error, Result};

/// Options as text: what a URL, the environment and a TOML table have in common.
///
/// Each key has one text or a list of texts. Any serde format can be read into it whose top is a
/// table of texts, numbers, booleans and lists of these.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options {
    values: BTreeMap<String, Text>,
    /// How the options are spelled where the user wrote them, for errors.
    variable_prefix: Option<String>,
}

/// The value of one option.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Text {
    One(String),
    Many(Vec<String>),
}

impl Options {
    /// No options yet, to be shown in errors as environment variables: `probe_interval` as
    /// `TIDINGS_PROBE_INTERVAL` where the prefix is `TIDINGS_`.
    #[must_use]
    pub fn from_variables(prefix: impl Into<String>) -> Self {
        Self {
            values: BTreeMap::new(),
            variable_prefix: Some(prefix.into()),
        }
    }

    /// Adds a value. A key that is added again becomes a list, each part split at commas.
    pub fn add(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let value = Text::One(value.into());
        match self.values.entry(key.into()) {
            Entry::Vacant(entry) => {
                entry.insert(value);
            }
            Entry::Occupied(mut entry) => {
                let mut list = entry.get().items();
                list.extend(value.items());
                entry.insert(Text::Many(list));
            }
        }
    }

    /// Sets an option from another part of the URL, which `part` names for the error.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the option is there already.
    pub fn set(&mut self, key: &str, value: impl Into<String>, part: &str) -> Result<()> {
        if self.values.contains_key(key) {
            return Err(Error::invalid_config(format!(
                "{} is given twice: as {part} and as an option",
                self.label(key)
            )));
        }
        self.values.insert(key.into(), Text::One(value.into()));
        Ok(())
    }

    /// Takes an option out.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where it is a list.
    pub fn take(&mut self, key: &str) -> Result<Option<String>> {
        match self.values.remove(key) {
            None => Ok(None),
            Some(Text::One(text)) => Ok(Some(text)),
            Some(Text::Many(_)) => Err(Error::invalid_config(format!(
                "{} is a list: accepted is one value",
                self.label(key)
            ))),
        }
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The key as the user spells it, for errors.
    #[must_use]
    pub fn label(&self, key: &str) -> String {
        match &self.variable_prefix {
            Some(prefix) => format!("{prefix}{}", key.to_ascii_uppercase()),
            None => key.to_owned(),
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&str, &Text)> {
        self.values.iter().map(|(key, text)| (key.as_str(), text))
    }
}

impl Text {
    /// The items of a list, which as one text stand with commas between.
    pub(super) fn items(&self) -> Vec<String> {
        match self {
            Self::One(text) if text.trim().is_empty() => Vec::new(),
            Self::One(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            Self::Many(items) => items.clone(),
        }
    }
}

/// The keys alone: any value may be secret.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys()).finish()
    }
}

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor)
    }
}

struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = Options;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of options")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Options, A::Error> {
        let mut options = Options::default();
        while let Some((key, Written(text))) = table.next_entry::<String, _>()? {
            let Some(text) = text else {
                return Err(de::Error::custom(format!(
                    "{}: accepted is a text, a number, a boolean or a list of these",
                    shown(&key)
                )));
            };
            if options.values.insert(key.clone(), text).is_some() {
                return Err(de::Error::custom(format!("{} is given twice", shown(&key))));
            }
        }
        Ok(options)
    }
}

/// A value as some format has it; `None` for what is neither a scalar nor a list of scalars, so
/// that the error can be made where the key is known.
struct Written(Option<Text>);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl Written {
    fn one(value: String) -> Self {
        Self(Some(Text::One(value)))
    }
}

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, a boolean or a list of these")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
        Ok(Written::one(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
        Ok(Written::one(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Written, E> {
        Ok(Written::one(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Written, E> {
        // `Debug` keeps the point of 4.0, so that it isn't taken for a whole number.
        Ok(Written::one(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Written, E> {
        Ok(Written::one(value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written(None))
    }

    fn visit_none<E>(self) -> Result<Written, E> {
        Ok(Written(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Written, A::Error> {
        let mut items = Vec::new();
        while let Some(Written(item)) = list.next_element()? {
            items.push(match item {
                Some(Text::One(text)) => Some(text),
                Some(Text::Many(_)) | None => None,
            });
        }
        let all_texts: Option<_> = items.into_iter().collect();
        Ok(Written(all_texts.map(Text::Many)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Written, A::Error> {
        while table.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Written(None))
    }
}
