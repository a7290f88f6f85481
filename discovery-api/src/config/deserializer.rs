//! The serde side of [`from_options`](super::from_options).

use std::cell::Cell;
use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, Expected, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::options::{Options, Text};
use super::{SECRET, shown};
use crate::Error;

/// All options, read as a struct or a map.
pub(super) struct Table<'a, I: Iterator<Item = (&'a str, &'a Text)>> {
    rest: I,
    current: Option<(&'a str, &'a Text)>,
}

/// What is wrong, with the key and the value as soon as they are known.
#[derive(Debug)]
pub(super) enum Fault {
    Value {
        key: Option<String>,
        value: Option<String>,
        reason: String,
    },
    Unknown {
        key: String,
        accepted: &'static [&'static str],
    },
    Missing {
        key: &'static str,
    },
}

impl<'a, I: Iterator<Item = (&'a str, &'a Text)>> Table<'a, I> {
    pub(super) fn new(entries: I) -> Self {
        Self {
            rest: entries,
            current: None,
        }
    }
}

impl Fault {
    /// The fault as the user reads it, in the spelling of `options`.
    pub(super) fn into_error(self, options: &Options) -> Error {
        Error::invalid_config(match self {
            Self::Value {
                key: None, reason, ..
            } => reason,
            Self::Value {
                key: Some(key),
                value,
                reason,
            } => {
                let value = value.map(|value| format!(" {}", shown(&value)));
                let (key, value) = (options.label(&key), value.unwrap_or_default());
                format!("{key}{value}: {reason}")
            }
            Self::Unknown { key, accepted } => {
                let accepted: Vec<_> = accepted.iter().map(|key| options.label(key)).collect();
                let accepted = match accepted.as_slice() {
                    [] => "none".to_owned(),
                    keys => keys.join(", "),
                };
                let key = shown(&options.label(&key));
                format!("unknown option {key}: accepted are {accepted}")
            }
            Self::Missing { key } => format!("{} is missing", options.label(key)),
        })
    }

    fn of_value(mut self, text: &str) -> Self {
        if let Self::Value { value, .. } = &mut self {
            value.get_or_insert_with(|| text.to_owned());
        }
        self
    }

    fn of_key(mut self, name: &str, secret: bool) -> Self {
        if let Self::Value { key, value, .. } = &mut self {
            *key = Some(name.to_owned());
            value.take_if(|_| secret);
        }
        self
    }
}

impl<'de, 'a, I: Iterator<Item = (&'a str, &'a Text)>> Deserializer<'de> for Table<'a, I> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, 'a, I: Iterator<Item = (&'a str, &'a Text)>> MapAccess<'de> for Table<'a, I> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        self.current
            .map(|(key, _)| seed.deserialize(StrDeserializer::new(key)))
            .transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some((key, text)) = self.current.take() else {
            return Err(Fault::custom("a value was asked for before its key"));
        };
        let secret = Cell::new(false);
        let value = Value {
            text,
            secret: &secret,
        };
        seed.deserialize(value).map_err(|fault| {
            let fault = match text {
                Text::One(text) => fault.of_value(text),
                Text::Many(_) => fault,
            };
            fault.of_key(key, secret.get())
        })
    }
}

/// One value; `secret` is set when what reads it is a [`Secret`](super::Secret).
struct Value<'a> {
    text: &'a Text,
    secret: &'a Cell<bool>,
}

struct Items<'a> {
    rest: std::vec::IntoIter<String>,
    secret: &'a Cell<bool>,
}

impl<'a> Value<'a> {
    fn one(&self) -> Result<&'a str, Fault> {
        match self.text {
            Text::One(text) => Ok(text),
            Text::Many(items) => Err(Fault::custom(format_args!(
                "a list of {}: accepted is one value, given once",
                items.len()
            ))),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.one()?.parse::<$type>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(Fault::custom(format_args!(
                    "accepted is a whole number from {} to {}",
                    <$type>::MIN,
                    <$type>::MAX
                ))),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.text {
            Text::One(text) => visitor.visit_str(text),
            Text::Many(_) => self.deserialize_seq(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.one()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.one()? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(Fault::custom("accepted are true and false")),
        }
    }

    numbers! {
        deserialize_i8 visit_i8 i8
        deserialize_i16 visit_i16 i16
        deserialize_i32 visit_i32 i32
        deserialize_i64 visit_i64 i64
        deserialize_i128 visit_i128 i128
        deserialize_u8 visit_u8 u8
        deserialize_u16 visit_u16 u16
        deserialize_u32 visit_u32 u32
        deserialize_u64 visit_u64 u64
        deserialize_u128 visit_u128 u128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.one()?.parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(Fault::custom("accepted is a number")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == SECRET {
            self.secret.set(true);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let mut items = Items {
            rest: self.text.items().into_iter(),
            secret: self.secret,
        };
        let value = visitor.visit_seq(&mut items)?;
        match items.rest.len() {
            0 => Ok(value),
            more => Err(Fault::custom(format_args!("{more} too many"))),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, v: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(v)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(StrDeserializer::new(self.one()?))
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple_struct map struct identifier ignored_any
    }
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(item) = self.rest.next() else {
            return Ok(None);
        };
        if item.is_empty() {
            return Err(Fault::custom("the list has an empty item"));
        }
        let text = Text::One(item);
        let value = Value {
            text: &text,
            secret: self.secret,
        };
        match (seed.deserialize(value), &text) {
            (Err(fault), Text::One(item)) => Err(fault.of_value(item)),
            (done, _) => done.map(Some),
        }
    }
}

impl serde::de::Error for Fault {
    fn custom<T: Display>(reason: T) -> Self {
        Self::Value {
            key: None,
            value: None,
            reason: reason.to_string(),
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("accepted is {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("accepted is {expected}"))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("{length} given: accepted is {expected}"))
    }

    fn unknown_variant(_: &str, accepted: &'static [&'static str]) -> Self {
        Self::custom(format_args!("accepted are {}", accepted.join(", ")))
    }

    fn unknown_field(key: &str, accepted: &'static [&'static str]) -> Self {
        Self::Unknown {
            key: key.to_owned(),
            accepted,
        }
    }

    fn missing_field(key: &'static str) -> Self {
        Self::Missing { key }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { reason, .. } => f.write_str(reason),
            Self::Unknown { key, .. } => write!(f, "unknown option {}", shown(key)),
            Self::Missing { key } => write!(f, "{key} is missing"),
        }
    }
}

impl std::error::Error for Fault {}
