//! LIM-1 to LIM-4: what goes in comes out, and nothing that comes in does harm.

use tidings_api::{
    ErrorKind, Health, Instance, METADATA_ENTRIES_MAX, METADATA_VALUE_BYTES_MAX, NAME_BYTES_MAX,
    NOTE_BYTES_MAX, PORTS_MAX, View,
};

use crate::bed::{Bed, ensure};
use crate::case::Outcome;
use crate::sample::{WEB, brief, differences, instance, same_content, shown, web};
use crate::{Configuration, Failure};

/// Most bytes that are injected at once.
const GARBAGE_BYTES_MAX: usize = 64 * 1024;

pub(super) async fn lim_1_every_name_within_the_rule_is_accepted(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let seen = [a.record_all().await?, b.record_all().await?];
    let longest = "x".repeat(NAME_BYTES_MAX);
    // Pairs that a backend confuses which joins the two with a character of theirs, or folds case.
    let names = [
        ("a", "b.c"),
        ("a.b", "c"),
        ("a", "b-c"),
        ("a-b", "c"),
        ("a", "b_c"),
        ("a_b", "c"),
        ("a", "b:c"),
        ("orderService", "10.0.0.7:8080"),
        ("orderservice", "10.0.0.7:8080"),
        ("my.package.Service", "::1"),
        ("9", "-"),
        ("a..b", ".."),
        ("a", "."),
        ("a", "A"),
        ("a", "a"),
        ("null", "true"),
        (&longest, &longest),
    ];
    let mut expected = Vec::new();
    for (number, (service, id)) in names.iter().enumerate() {
        let instance = instance(service, id, number);
        let key = a.register(instance.clone()).await?;
        ensure!(
            bed,
            key == *instance.key(),
            "{} was registered as {key}",
            instance.key()
        );
        expected.push(instance);
    }
    let limit = bed.limit(a.bounds().visible);
    for recording in &seen {
        let all = |view: &View| {
            let same = |e: &Instance| {
                view.get(e.key())
                    .is_some_and(|found| same_content(found, e))
            };
            view.len() == expected.len() && expected.iter().all(same)
        };
        recording
            .wait("every name is there, once", limit, all)
            .await?;
    }
    Ok(())
}

pub(super) async fn lim_2_content_at_the_limits_comes_out_unchanged(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let instances = extremes().map_err(Failure::setup)?;
    for instance in instances {
        let what = format!("{} with address {}", instance.key(), instance.address());
        a.register(instance.clone()).await?;
        for node in [&a, &b] {
            let recording = node.record(instance.service().as_str()).await?;
            let there = |view: &View| view.get(instance.key()).is_some();
            let limit = bed.limit(a.bounds().visible);
            let view = recording
                .wait(&format!("{what} is there"), limit, there)
                .await?;
            let found = view.get(instance.key());
            let differences = found.map(|found| differences(found, &instance));
            let same = differences.as_ref().is_some_and(Vec::is_empty);
            ensure!(bed, same, "{what} came out different: {differences:?}");
        }
    }
    Ok(())
}

pub(super) async fn lim_2_health_comes_out_unchanged(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    let key = a.register(web("a", 1)).await?;
    let longest = text(NOTE_BYTES_MAX, 3);
    let healths = [
        Health::critical(&longest),
        Health::warning("\"quoted\", {braced}\n\tand \\ escaped \u{0}"),
        Health::draining().with_note(" with spaces around "),
        Health::passing().with_note("✓"),
        Health::draining(),
    ];
    for health in healths {
        a.health(&key, health.clone()).await?;
        let same = |view: &View| {
            view.get(&key)
                .is_some_and(|found| *found.health() == health)
        };
        let what = format!("a is {}", brief(&health));
        seen.wait(&what, bed.limit(a.bounds().visible), same)
            .await?;
    }
    Ok(())
}

pub(super) async fn lim_2_many_instances_come_out_complete(bed: &Bed) -> Outcome {
    const COUNT: usize = 500;
    let [a, b] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    for number in 0..COUNT {
        a.register(web(&format!("web-{number}"), number)).await?;
    }
    let limit = bed.limit(a.bounds().visible);
    let all = |view: &View| view.len() == COUNT && view.is_live();
    seen.wait("all instances are there", limit, all).await
}

pub(super) async fn lim_3_an_unknown_option_is_refused(bed: &Bed) -> Outcome {
    let configuration = bed.fixture().configuration()?;
    valid(bed, &configuration)?;
    let unknown = ("no-such-option", "1");
    let error = refused(bed, &configuration, unknown)?;
    let named = error.contains(unknown.0);
    ensure!(
        bed,
        named,
        "the error of the option {unknown:?} doesn't name it: {error:?}"
    );
    let accepted = error.contains("accepted");
    ensure!(
        bed,
        accepted,
        "the error of {unknown:?} doesn't say what is accepted: {error:?}"
    );
    Ok(())
}

pub(super) async fn lim_3_a_bad_value_is_refused(bed: &Bed) -> Outcome {
    let configuration = bed.fixture().configuration()?;
    valid(bed, &configuration)?;
    if configuration.refused.is_empty() {
        return Err(Failure::Setup(
            "the fixture names no option value that is refused".into(),
        ));
    }
    for option in &configuration.refused {
        let error = refused(bed, &configuration, *option)?;
        let named = error.contains(option.0);
        ensure!(
            bed,
            named,
            "the error of {option:?} doesn't name the option: {error:?}"
        );
        let accepted = error.contains("accepted");
        ensure!(
            bed,
            accepted,
            "the error of {option:?} doesn't say what is accepted: {error:?}"
        );
    }
    Ok(())
}

pub(super) async fn lim_3_secrets_are_not_shown(bed: &Bed) -> Outcome {
    let configuration = bed.fixture().configuration()?;
    let with_secrets = [&configuration.valid[..], &configuration.secrets].concat();
    if configuration.secrets.is_empty() {
        return Err(Failure::Setup(
            "the fixture names no option that holds a secret".into(),
        ));
    }
    let debug = match (configuration.parse)(&with_secrets) {
        Ok(debug) => debug,
        Err(error) => return Err(bed.violation(format!("valid secrets are refused: {error:?}"))),
    };
    let mut texts = vec![("Debug", debug)];
    for (key, value) in &configuration.secrets {
        // Nor in errors: about another option, or about the secret itself.
        let mut unknown = with_secrets.clone();
        unknown.push(("no-such-option", "1"));
        let damaged = format!("{value}\u{1}");
        let mut bad = configuration.valid.clone();
        bad.push((key, &damaged));
        for options in [unknown, bad] {
            if let Err(error) = (configuration.parse)(&options) {
                texts.push(("an error", format!("{error} {error:?}")));
            }
        }
    }
    for (key, value) in &configuration.secrets {
        for (place, text) in &texts {
            let shown = text.contains(value);
            ensure!(bed, !shown, "the secret option {key:?} is shown in {place}");
        }
    }
    Ok(())
}

pub(super) async fn lim_4_garbage_does_no_harm(bed: &Bed) -> Outcome {
    const PIECES: usize = 200;
    let [a, b] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    a.register(web("a", 1)).await?;
    b.register(web("b", 1)).await?;
    bed.marker(&a, &seen).await?;
    bed.marker(&b, &seen).await?;
    let before = seen.mark();
    let mut rng = bed.rng();
    for number in 0..PIECES {
        let length = match number {
            0 => 0,
            1 => GARBAGE_BYTES_MAX,
            // Most are short, so that length fields are at the edge of what is there.
            _ => 1 << rng.u32(..=16),
        };
        let length = rng.usize(length / 2..=length);
        let mut garbage: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
        match rng.u8(..4) {
            0 => garbage.fill(0),
            1 => garbage.fill(0xff),
            2 => garbage = nested(garbage.len()),
            _ => {}
        }
        bed.fixture().inject(&garbage).await?;
    }
    bed.marker(&a, &seen).await?;
    bed.marker(&b, &seen).await?;
    seen.expect(&before, &[])?;
    for recording in seen.iter() {
        let view = recording.view();
        ensure!(bed, view.is_live(), "garbage made a view {}", shown(&view));
    }
    let c = bed.node().await?;
    let c = c.record(WEB).await?;
    c.wait("a new handle works", bed.recovery(), |view| {
        view.is_live() && view.len() >= 4
    })
    .await?;
    Ok(())
}

fn valid(bed: &Bed, configuration: &Configuration) -> Outcome {
    let parsed = (configuration.parse)(&configuration.valid);
    ensure!(
        bed,
        parsed.is_ok(),
        "the valid options are refused: {parsed:?}"
    );
    Ok(())
}

/// The error of a configuration with one option that should be refused.
fn refused(
    bed: &Bed,
    configuration: &Configuration,
    option: (&str, &str),
) -> Result<String, Failure> {
    let mut options = configuration.valid.clone();
    options.retain(|(key, _)| *key != option.0);
    let mut options: Vec<(&str, &str)> = options;
    options.push(option);
    match (configuration.parse)(&options) {
        Err(error) if error.kind() == ErrorKind::InvalidConfig => Ok(error.to_string()),
        Err(error) => Err(bed.violation(format!("the option {option:?} is refused as {error:?}"))),
        Ok(parsed) => Err(bed.violation(format!("the option {option:?} is accepted: {parsed}"))),
    }
}

/// Instances with every field at its limit, one a kind of address.
fn extremes() -> tidings_api::Result<Vec<Instance>> {
    let name = |first: &str| format!("{first}{}", "x".repeat(NAME_BYTES_MAX - first.len()));
    let host = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "D".repeat(61),
    ]
    .join(".");
    let addresses = [
        "255.255.255.255:65535".to_owned(),
        "[2001:db8::ffff:0:1]:1".to_owned(),
        "[::ffff:10.0.0.7]:443".to_owned(),
        format!("{host}:8080"),
    ];
    let mut instances = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let mut instance = Instance::new(name("s"), address)?
            .with_id(name(&format!("{number}:.-_")))?
            .with_zone(name("-"))?
            .with_weight(u16::MAX)?
            .with_health(Health::warning(text(NOTE_BYTES_MAX, number)));
        for port in 0..PORTS_MAX {
            let number = u16::MAX - u16::try_from(port).unwrap_or_default();
            instance = instance.with_port(name(&format!("{port}_")), number)?;
        }
        for entry in 0..METADATA_ENTRIES_MAX {
            let value = text(METADATA_VALUE_BYTES_MAX, entry);
            instance = instance.with_metadata(name(&format!("{entry}.")), value)?;
        }
        instances.push(instance);
    }
    // And with next to nothing.
    instances.push(Instance::new("s", "0.0.0.0:1")?.with_id("i")?);
    instances.push(
        Instance::new("s", "h:1")?
            .with_id("empty")?
            .with_metadata("k", "")?,
    );
    Ok(instances)
}

/// So many bytes of UTF-8, of characters that are escaped, cut or folded where something is wrong.
fn text(bytes: usize, variant: usize) -> String {
    const PIECES: [&str; 10] = [
        "é", "𝄞", "\u{0}", "\"", "\\", "\r\n", "e\u{301}", "\u{feff}", "%2F&=;", "߿",
    ];
    let mut text = String::new();
    for piece in PIECES.iter().cycle().skip(variant) {
        if text.len() + piece.len() > bytes {
            break;
        }
        text.push_str(piece);
    }
    let rest = bytes - text.len();
    text + &" ".repeat(rest)
}

/// Text that makes a recursive parser recurse.
fn nested(length: usize) -> Vec<u8> {
    let open = b"[{\"a\":".iter().cycle();
    open.take(length).copied().collect()
}
