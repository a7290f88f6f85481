//! Other owners of an own key: what is seen of them, and what the [verdict](crate::verdict) does to
//! the registration.

use std::time::{Duration, Instant};

use tidings_api::{Generation, InstanceKey, Registration, Status};

use crate::inner::Inner;
use crate::mark::Listed;
use crate::offers::Offer;
use crate::topics::Topic;
use crate::verdict::{Sight, Verdict, Word, judge};
use crate::{Side, Sides};

/// How soon it is looked again, where somebody has taken over an own key.
pub(crate) const RIVAL_PAUSE: Duration = Duration::from_millis(200);
/// How many times its bound for showing a change a side gets to show who has taken a key, so that a busy
/// machine isn't taken for an owner that has left.
const SETTLED_BOUNDS: u32 = 2;

impl Inner {
    /// Looks whether somebody else has taken over an own key on one side. The newer registration
    /// wins on both (REG-5): where that is the other's, this one ends on both sides; where it is
    /// this one, it takes the side back. Says whether it is to be looked again soon.
    pub(crate) fn meet_rivals(&self, topic: &Topic) -> bool {
        let doubtful = self.doubtful(topic);
        if doubtful.is_empty() {
            return false;
        }
        let statuses = Side::BOTH.map(|side| self.handles.get(side).map(|it| it.status()));
        for (key, own, writes) in doubtful {
            self.offer_mut(&key, |offer| {
                if offer.owned().is_none() || offer.generation() != Some(own) {
                    return;
                }
                let sights = Side::BOTH.map(|side| {
                    let status = statuses[side.index()].as_ref();
                    let status = status.filter(|_| writes.has(side))?;
                    sight(&key, own, offer, side, status, topic)
                });
                obey(judge(sights), &key, own, offer, topic);
            });
        }
        true
    }

    /// Own keys that a side that was told of them doesn't list as they are, each with its generation and
    /// the sides that it is to be on.
    fn doubtful(&self, topic: &Topic) -> Vec<(InstanceKey, Generation, Sides)> {
        let (offers, plan) = (self.lock(), self.plan());
        let own = offers.map.iter();
        let own = own.filter(|(key, _)| topic.selects_alone(key));
        let doubtful = own.filter_map(|(key, offer)| {
            let desired = offer.owned()?;
            let own = offer.generation()?;
            let writes = self.phase_of(&plan, key).1;
            let is_listed = |side| {
                topic.look(|merge, _| {
                    merge.listing(side, key).is_some_and(|listed| {
                        // Another one may have drawn the same number.
                        listed.generation() == own && listed.plain.address() == desired.address()
                    })
                })
            };
            let mut told = writes.iter().filter(|side| offer.told[side.index()].holds);
            let is_doubtful = told.any(|side| !is_listed(side));
            is_doubtful.then(|| (key.clone(), own, writes))
        });
        doubtful.collect()
    }
}

/// What is known of an own key on a side; `None` where it refuses it for good.
fn sight(
    key: &InstanceKey,
    own: Generation,
    offer: &mut Offer,
    side: Side,
    status: &Status,
    topic: &Topic,
) -> Option<Sight> {
    if offer.refusal(side).is_some() {
        return None;
    }
    let told = &mut offer.told[side.index()];
    let registration = status.registration(key).filter(|_| told.holds);
    let is_overtaken = registration.is_some_and(Registration::is_superseded) && !told.claims;
    let (word, is_answered, is_live) = topic.look(|merge, _| {
        let listed = merge.listing(side, key);
        let word = listed.map_or(Word::Nothing, |listed| word(listed, own));
        let is_answered = told.answered.is_some() && told.answered == raw(listed);
        (word, is_answered, merge.heard(side).is_live())
    });
    let bound = (status.bounds().visible * SETTLED_BOUNDS).max(RIVAL_PAUSE);
    let is_settled = told.is_overtaken_for(bound, is_overtaken && is_live, Instant::now());
    Some(Sight {
        word,
        is_registered: registration.is_some_and(Registration::is_registered) && is_live,
        is_overtaken,
        is_answered,
        is_settled,
    })
}

/// What tells one registration on a side from the next.
fn raw(listed: Option<&Listed>) -> Option<Generation> {
    listed.map(|listed| listed.raw.generation())
}

/// Who is listed, beside this registration.
fn word(listed: &Listed, own: Generation) -> Word {
    let is_newer = listed.generation() > own;
    match (listed.is_direct(), listed.phase) {
        (_, Some(_)) if is_newer => Word::Newer,
        (false, _) => Word::Nothing,
        (true, None) => Word::Foreign,
        (true, Some(_)) if listed.generation() == own => Word::Own,
        (true, Some(_)) => Word::Older,
    }
}

fn obey(verdict: Verdict, key: &InstanceKey, own: Generation, offer: &mut Offer, topic: &Topic) {
    match verdict {
        Verdict::Keep | Verdict::Wait => {}
        Verdict::TakeBack(lost) => {
            for side in Side::BOTH.into_iter().filter(|side| lost[side.index()]) {
                tracing::debug!(%key, %side, "an older owner had taken over");
                let listed = topic.look(|merge, _| raw(merge.listing(side, key)));
                offer.take_back(side, listed);
            }
        }
        Verdict::DrawAgain => {
            tracing::info!(%key, "another owner has drawn the same generation");
            offer.draw_again();
        }
        Verdict::GiveWay => {
            tracing::info!(%key, "a newer owner has taken over");
            let comes = |to: &Side| {
                let is_newer = |it: &Listed| word(it, own) == Word::Newer && !it.has_left(*to);
                let is_listed =
                    |on| topic.look(|merge, _| merge.listing(on, key).is_some_and(is_newer));
                Side::BOTH.into_iter().any(is_listed)
            };
            offer.supersede(Side::BOTH.into_iter().filter(comes).collect());
        }
    }
}
