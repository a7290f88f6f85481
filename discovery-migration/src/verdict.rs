//! Whether an owner keeps its key, decided from what both sides say: a pure function (REG-5).
//!
//! Each side has an order of its own: there the owner that came last is the newer one. Two owners that
//! come at once may each win one side. What counts for both sides is the generation in their
//! [marks](crate::mark): the newer owner takes back what the older one has won, and the older one stops.
//!
//! An owner stops for nobody that it hasn't seen, as long as it has a side. That a side has been taken
//! and is empty now says little: the other owner may have been the newer one, which has ended, or an
//! older one that gave way already. So the one that gives way lingers: it leaves a side that it has
//! won as it is, until the newer owner has taken it or doesn't come. The newer one sees whom it has met,
//! and who reads that side alone misses nobody meanwhile.

/// What a side lists under an own key, beside mirrors of what isn't newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Word {
    Nothing,
    /// This registration.
    Own,
    /// An owner that migrates, and registered before.
    Older,
    /// An owner that migrates, and registered later.
    Newer,
    /// An owner that doesn't migrate. What counts is the side's own order.
    Foreign,
}

/// What is known of an own key on a side that it is to be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sight {
    pub(crate) word: Word,
    /// The side has this registration, as far as its handle knows.
    pub(crate) is_registered: bool,
    /// Another owner has taken the key on this side, and it isn't being taken back.
    pub(crate) is_overtaken: bool,
    /// What is listed is what was answered by taking the side back: it is the past.
    pub(crate) is_answered: bool,
    /// It was overtaken so long ago, and is heard, that it shows what came of that.
    pub(crate) is_settled: bool,
}

/// What an owner does about what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// Nobody else is there.
    Keep,
    /// Too little is known yet.
    Wait,
    /// It is the newer one, and registers again on the sides that it has lost.
    TakeBack([bool; 2]),
    /// Another one has drawn the same generation: it draws again.
    DrawAgain,
    /// A newer owner has the key: it stops.
    GiveWay,
}

/// What an owner does. A side that it isn't to be on, or that refuses it for good, is `None`.
pub(crate) fn judge(sights: [Option<Sight>; 2]) -> Verdict {
    let here = || sights.iter().flatten();
    let overtaken = || here().filter(|sight| sight.is_overtaken);
    if overtaken().next().is_none() {
        return Verdict::Keep;
    }
    let is_older = here().any(|sight| sight.word == Word::Newer)
        || overtaken().any(|sight| sight.word == Word::Foreign);
    if is_older {
        return Verdict::GiveWay;
    }
    let lost = |sight: Option<Sight>, word| sight.filter(|it| it.is_overtaken && it.word == word);
    let to_older = sights.map(|it| lost(it, Word::Older).is_some_and(|it| !it.is_answered));
    if to_older.contains(&true) {
        return Verdict::TakeBack(to_older);
    }
    if !overtaken().all(|sight| sight.is_settled) {
        return Verdict::Wait;
    }
    if overtaken().any(|sight| sight.word == Word::Older) {
        return Verdict::TakeBack(sights.map(|it| lost(it, Word::Older).is_some()));
    }
    if overtaken().any(|sight| sight.word == Word::Own) {
        return Verdict::DrawAgain;
    }
    // Whoever it was has left.
    let mut others = here().filter(|sight| !sight.is_overtaken).peekable();
    if others.peek().is_none() {
        return Verdict::GiveWay;
    }
    match others.all(|sight| sight.is_registered && sight.word == Word::Own) {
        true => Verdict::TakeBack(sights.map(|it| lost(it, Word::Nothing).is_some())),
        false => Verdict::Wait,
    }
}

#[cfg(test)]
mod model;
