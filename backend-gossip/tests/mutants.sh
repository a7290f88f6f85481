#!/usr/bin/env bash
# Breaks the backend on purpose, one way at a time, and asks its tests whether they notice: the simulator
# where nothing else is said.
#
#   backend-gossip/tests/mutants.sh            every mutation
#   backend-gossip/tests/mutants.sh stale      those whose name contains "stale"
#   SIM_SEEDS=200 backend-gossip/tests/mutants.sh
#   DRY_RUN=1 backend-gossip/tests/mutants.sh  only whether each still applies
#
# Works on a copy of the workspace below target/, so that the sources stay as they are. Prints which
# checkers, or how many tests, caught each mutation, and ends with an error where one survives or no longer applies.

set -euo pipefail
cd "$(dirname "$0")/../.."

only=${1:-}
seeds=${SIM_SEEDS:-64}
copy=target/mutants
sources=$copy/backend-gossip/src
survived=0

sweep=(--test sim -- sweep::sweep scenarios)
queries=(--test sim -- scenarios::events scenarios::queries queries::)
observers=(--features fault-injection --test observer)
hostile=(--features fault-injection --lib --test hostile)
links=(--lib -- half_open link::tests)
# Where the simulator's clusters are safe all the same: who is suspected too soon is challenged.
convictions=(--lib -- engine::conviction_tests)
# Where others repair it in time: an owner corrects what others have of it.
plainly=(--lib -- engine::tests engine::records_tests)
events=(--lib -- engine::events_tests)

# mutation NAME FILE SED-SCRIPT [TESTS…]; a file without a folder is the engine's.
mutation() {
    local name=$1 file=$sources/$2 script=$3
    [[ $2 == */* ]] || file=$sources/engine/$2
    local tests=("${@:4}")
    [[ $# -gt 3 ]] || tests=("${sweep[@]}")
    [[ $name == *"$only"* ]] || return 0
    cp "$file" "$file.whole"
    sed -i -E "$script" "$file"
    if cmp -s "$file" "$file.whole"; then
        verdict="no longer applies: the source has changed"
        survived=1
    elif [[ -n ${DRY_RUN:-} ]]; then
        verdict=applies
    else
        judge
    fi
    mv "$file.whole" "$file"
    printf '| %-46s | %s |\n' "$name" "$verdict"
}

# Builds and runs the copy; leaves in $verdict what failed.
judge() {
    local log=$copy/log build=()
    for argument in "${tests[@]}"; do
        [[ $argument != -- ]] || break
        build+=("$argument")
    done
    if ! cargo test --quiet --manifest-path $copy/Cargo.toml --target-dir $copy/target \
        -p tidings-gossip --no-run "${build[@]}" >$log 2>&1; then
        verdict="does not compile, see $log"
        survived=1
        return
    fi
    SIM_SEEDS=$seeds RUST_BACKTRACE=0 timeout 1200 cargo test --quiet \
        --manifest-path $copy/Cargo.toml --target-dir $copy/target \
        -p tidings-gossip --no-fail-fast "${tests[@]}" >$log 2>&1 || true
    local caught
    caught=$(sed -n 's/^checker: //p' $log | sort | uniq -c | sort -rn |
        awk '{ printf "%s%s ×%s", separator, $2, $1; separator = ", " }')
    local failed
    failed=$(sed -nE 's/^    ([a-z_]+(::[a-z_0-9]+)+)$/\1/p' $log | sort -u | grep -cv "^sweep::" || true)
    if ! grep -q '^test result: FAILED' $log; then
        verdict='**survived**'
        survived=1
    else
        verdict="${caught:-assertions} ($failed tests)"
    fi
}

mkdir -p $copy
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
        [[ -e $file ]] && printf '%s\0' "$file"
    done | tar --null --files-from=- -cf - | tar -C $copy -xf -

echo '| mutation | caught by |'
echo '|---|---|'

# Members.
mutation "refutation doesn't raise the incarnation" merge.rs \
    's/me\.incarnation = above \+ 1;/me.incarnation = above;/'
mutation 'accusations of this member are ignored' merge.rs \
    's/if accuse\.member == self\.me \{/if accuse.member == self.me { return;/'
mutation 'a stale alive brings the dead back' merge.rs \
    's/newer > \(member\.generation, member\.incarnation\)/newer >= (member.generation, member.incarnation)/'
mutation 'suspicions never end' conviction.rs \
    's/self\.stats\.deaths \+= 1;/if now >= now { return; }/'
mutation 'suspicions end at once' suspicion.rs \
    's/^        self\.started \+ self\.time\(\)$/        self.started/' "${convictions[@]}"
mutation 'nobody hears of a death' merge.rs \
    '/fn bury/,/^    }/s/self\.spread\(now, ItemKey::Member\(id\)\);//'
mutation 'records of the dead stay visible' merge.rs \
    '/fn bury/,/^    }/s/self\.index_records\(id\);//'
mutation 'the return of a member is told to nobody' merge.rs \
    '/fn reappear/,/^    }/s/self\.index_records\(id\);//'
mutation 'a cut-off member convicts' contact.rs \
    's/(fn conviction_held.*\{)$/\1 if now >= suspected { return None; }/'
mutation 'a pause is not noticed' mod.rs \
    's/self\.after_pause\(now\);//' "${convictions[@]}"
mutation 'dead members are never tried again' join.rs \
    's/self\.knock\(id\);/let _ = id;/'
mutation 'a leave is told to nobody' join.rs \
    's/self\.tell_all\(\&farewell\);|frame\.extend_from_slice\(\&farewell\);//'
mutation 'a rival of the same name is ignored' merge.rs \
    's/alive\.generation >= generation \&\& alive\.address != self\.identity\.address/false/'

# Records.
mutation 'tombstones are forgotten' registrations.rs \
    '/pub fn deregister/,/^    }/s/self\.write\(now, key, None\);/self.drop_record(self.me, key);/' "${plainly[@]}"
mutation 'older versions replace newer ones' merge.rs \
    's/Some\(known\) if known\.version >= record\.version => return,/Some(known) if known.version == record.version => return,/'
mutation 'records of a former start are taken' merge.rs \
    's/if record\.generation < owner\.generation \|\| /if /'
mutation 'records of a former start are kept' merge.rs \
    's/^                self\.drop_records\(id\);$//'
mutation 'records below the floor are taken' merge.rs \
    's/ \|\| record\.version <= owner\.floor\(\)//'
mutation 'the superseded owner goes on' merge.rs \
    '/fn check_superseded\(/,/^    }/s/if newest\.filter\(rival\)\.is_some\(\) \{/if newest.filter(rival).is_some() \&\& now < now {/'
mutation 'health is lost when registering again' registrations.rs \
    's/Some\(last\) => instance\.keeping_health_of\(\&last\.instance\),/Some(_) => instance,/'
mutation 'generations of registrations stand still' registrations.rs \
    's/Generation::new\(above\.max\(drawn\)\.max\((.*)\)\)$/{ let _ = (above, drawn); Generation::new(\1) }/'

# Spreading.
mutation 'changes are not pushed' spread.rs \
    's/take_some\(\&mut self\.fresh\.(own|told|passed)\)/{ self.fresh.\1.clear(); BTreeSet::<ItemKey>::new() }/'
mutation 'everything is pushed at one moment' spread.rs \
    's/^const PUSHED_AT_ONCE: usize = 32;/const PUSHED_AT_ONCE: usize = 32_000;/' "${plainly[@]}"
mutation 'what was sent too much of keeps the rest waiting' spread.rs \
    's/set_earlier\(Timer::Push, at\)/set_if_unset(Timer::Push, at)/' "${plainly[@]}"
mutation 'nothing is synced' sync.rs \
    '/fn sync\(\&mut self, now: Instant\)/,/^    }/s/self\.start_sync\(address\);/let _ = address;/'
mutation 'what was refuted is confirmed all the same' probe.rs \
    's/if self\.members\.find\(id\)\.filter\(suspected\)\.is_some\(\) \{/if self.members.find(id).filter(suspected).is_some() || now == now {/' "${convictions[@]}"
mutation 'everybody pushes on what is said of the silent' spread.rs \
    's/self\.loss\.doubt\(\) < STORM_DOUBT/now == now/'
mutation 'broadcasts never end' broadcast.rs \
    's/if sent \+ times < limit \{/if sent < limit || limit > 0 {/'
mutation 'datagrams are filled without end' spread.rs \
    's/frame\.len\(\) \+ bytes\.len\(\) <= space/frame.len() < 100 * space/'
mutation 'gossip rounds follow without a pause' spread.rs \
    '/fn gossip/,/^    }/s/now \+ self\.config\.gossip_interval/now/'
mutation 'queues know no bound' broadcast.rs \
    's/self\.places\.len\(\) >= BROADCASTS_MAX/false/'

# User events and queries.
mutation 'events are told again' streams.rs \
    '/pub\(super\) fn admit/,/^    }/s/^        if stream\.generation > generation$/        if stream.told.is_some_and(|told| sequence <= told) { admitted.told.push(Heard::Event(kept.to_event(now))); return admitted; }\n&/' \
    "${queries[@]}"
mutation 'events are told as they come' streams.rs \
    's/\&\& let Some\(kept\) = stream\.waiting\.remove\(\&next\)/\&\& let Some((next, kept)) = { let _ = next; stream.waiting.pop_first() }/' \
    "${queries[@]}"
mutation 'missed events are not told of' streams.rs \
    's/filter\(\|_\| count > 0\)/filter(|_| count > u64::MAX - 1)/' "${queries[@]}"
mutation 'streams of events are not compared' replay.rs \
    's/self\.stats\.events\.compared \+= 1;/if now >= now { return; }/' "${queries[@]}"
mutation 'events of a sender are kept without end' streams.rs \
    's/while stream\.history\.len\(\) > EVENTS_PER_SENDER_MAX/while stream.history.len() > usize::MAX - 1/' "${queries[@]}"
mutation 'large events are not fetched' replay.rs \
    's/self\.claim_announced\(now, from, head\);/let _ = (now, from, head);/' "${queries[@]}"
mutation 'what waits behind a hole is never told' user_events.rs \
    's/self\.skip_holes\(now\);//' "${events[@]}"
mutation 'a new start forgets what waits behind a hole' user_events.rs \
    's/let waiting = stream\.last_waiting\(\);/let waiting = None;/' "${events[@]}"
mutation 'who leaves waits for nobody to have its events' join.rs \
    's/let unheard = self\.has_last_words\(now\);/let unheard = false;/' "${events[@]}"
mutation 'who has left is not asked for its last events' replay.rs \
    's/member\.is_present\(\) \|\| left \&\&/member.is_present() || !left \&\&/' "${events[@]}"
mutation 'who agrees on nothing has caught up' replay.rs \
    's/compare\.caught_up \|= ours != 0 \|\| !may_come;/compare.caught_up |= ours != 0 || !may_come || may_come;/' "${events[@]}"
mutation 'parts of streams are compared without end' replay.rs \
    's/if std::mem::replace\(\&mut self\.user_events\.compare\.parts, true\) \{/if now < now {/' "${events[@]}"
mutation 'who says nothing keeps a large query' queries.rs \
    's/^const LARGE_PATIENCE: Duration = Duration::from_millis\(500\);/const LARGE_PATIENCE: Duration = Duration::from_secs(500);/' "${events[@]}"
mutation 'queries are handed over again' answers.rs \
    's/if let Some\(known\) = self\.queries\.heard\.queries\.get\(\&key\) \{/if let Some(known) = self.queries.heard.queries.get(\&key) \&\& now < now {/' \
    "${queries[@]}"
mutation 'queries are soon forgotten' answers.rs \
    's/if many \{ MEMORY \}/if many || !many { MEMORY }/' "${queries[@]}"
mutation 'answers are told again' queries.rs \
    's/if matches!\(target\.outcome, Outcome::Answered \| Outcome::Declined\) \|\| now/if now/' "${queries[@]}"
mutation 'queries are asked once' queries.rs \
    's/RETRY \* 2_u32\.pow\(doublings\)/RETRY * (100_000 + doublings)/' "${queries[@]}"
mutation 'queries for some go to all' queries.rs \
    's/let Some\(names\) = names else \{/let Some(names) = names.filter(|names| names.len() > 1_000_000) else {/' "${queries[@]}"
mutation 'the dead are waited for' queries.rs \
    's/if waits \&\& !present \{/if waits \&\& !present \&\& !waits {/' "${queries[@]}"

# Observers.
mutation 'observers know no bound' observers.rs \
    's/if self\.observers\.len\(\) >= OBSERVERS_MAX \{/if self.observers.len() > usize::MAX - 1 {/' "${observers[@]}" -- room
mutation 'who observes has a say' mod.rs \
    's/^            \&\& self\.observers\.contains\(link\)$/            \&\& self.observers.contains(link) \&\& now < now/' \
    "${observers[@]}" -- hostile
mutation 'the silence of a member is not noticed' observer/session.rs \
    's/^const SILENCE_PROBES: u32 = 5;/const SILENCE_PROBES: u32 = 5_000_000;/' "${observers[@]}" -- silence
mutation 'who hears nobody is not stale' observer/session.rs \
    's/_ => stale\(self\.stale_since\(now\), "no member .*$/_ => Freshness::Live,/' "${observers[@]}" -- silence
mutation 'an observer keeps its keys' observer/driver.rs \
    's/self\.ring\.send_replace\(Arc::new\(ring\)\);/drop(ring);/' "${observers[@]}" -- rotation

mutation 'a withdrawal is told without what it is for' spread.rs \
    's/true => self\.encode_successor\(stored\.key\(\)\),/true => Vec::new(),/'
mutation 'a key is handed to somebody unheard of' spread.rs \
    's/let mut bytes = Message::Alive\(owner\.to_alive\(\)\)\.to_bytes\(\);/let mut bytes = Vec::new(); drop(owner.to_alive());/' "${plainly[@]}"
mutation 'what comes late vouches for what was lost' held.rs \
    's/let known = known\.unwrap_or_else\(\|\| self\.newest_known\(id\)\);/let _ = known; let known = self.newest_known(id);/' "${plainly[@]}"
mutation 'a namesake is not heard' mod.rs \
    's/self\.hear_namesake\(now, route, \&mut reader\);//' "${plainly[@]}"
mutation 'a large registry ends with its first part' sync.rs \
    's/asks = vec!\[Message::Sync\(vec!\[self\.items\.range_digest\(0, u64::MAX\)\]\)\];/asks = vec![Message::SyncDone { digest: 0 }];/' "${plainly[@]}"
mutation 'what is refused is given for ever' sync.rs \
    's/if goes_on \&\& self\.rests_until\(now\)\.is_some\(\) \{/if goes_on \&\& now < now {/' "${plainly[@]}"
mutation 'what is replaced counts twice' registry.rs \
    's/let replaced = known\.map_or\(0, Stored::bytes\);/let replaced = known.map_or(0, |_| 0);/' "${plainly[@]}"
mutation 'who moves is no new start' merge.rs \
    's/self\.restart\(now, None, generation\.saturating_add\(1\)\.min\(COUNTER_MAX\)\);/self.restart(now, None, generation);/' "${plainly[@]}"

# Members that mean harm, and their links.
mutation 'any counter of a member is heard' merge.rs \
    's/if alive\.generation\.max\(alive\.incarnation\) > COUNTER_MAX \{/if now < now {/' "${hostile[@]}"
mutation 'any counter of an accusation is heard' merge.rs \
    's/if accuse\.generation\.max\(accuse\.incarnation\) > COUNTER_MAX \{/if now < now {/' "${hostile[@]}"
mutation 'any counter of a record is heard' merge.rs \
    's/if record\.generation\.max\(record\.version\) > COUNTER_MAX \{/if now < now {/' "${hostile[@]}"
mutation 'the invented leave no room' merge.rs \
    's/if !speaks_for_itself \|\| /if speaks_for_itself || /' "${hostile[@]}"
mutation 'the own word goes beyond the highest' merge.rs \
    's/let \(newest, is_last\) = \(self\.version, above >= COUNTER_MAX\);/let (newest, is_last) = (self.version, above > COUNTER_MAX);/' "${hostile[@]}"
mutation 'others may be at the own address' merge.rs \
    's/if alive\.address == self\.identity\.address \{/if now < now {/' "${hostile[@]}"
mutation 'strangers are answered with more than they send' credit.rs \
    's/false => frame\.len\(\),/false => usize::MAX,/' "${hostile[@]}"
mutation 'forged records are not corrected' merge.rs \
    's/^            self\.correct_own\(now, \&record\);//' "${hostile[@]}"
mutation 'an owner has any number of records' registry.rs \
    's/share\.records \+ records <= RECORDS_PER_OWNER_MAX/share.records + records < usize::MAX/' "${hostile[@]}"
mutation 'what was refused is synced over and over' sync.rs \
    's/let rested = self\.refused\.map/let rested = self.refused.filter(|_| now < now).map/' "${hostile[@]}"
mutation 'half a frame has no deadline' link/carrier.rs \
    's/let read = timeout\(FRAME_TIMEOUT, read_frame/let read = timeout(1_000 * FRAME_TIMEOUT, read_frame/' "${links[@]}"
mutation 'writing has no deadline' link/carrier.rs \
    's/timeout\(FRAME_TIMEOUT, writer\.write_all/timeout(1_000 * FRAME_TIMEOUT, writer.write_all/' "${links[@]}"
mutation 'any number of silent links is held' ./link.rs \
    's/let full = self\.incoming\(\) >= self\.incoming_max;/let full = incoming > usize::MAX - 1;/' "${links[@]}"

exit $survived
