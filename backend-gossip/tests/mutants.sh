#!/usr/bin/env bash
# Breaks the engine on purpose, one way at a time, and asks the simulator whether it notices.
#
#   backend-gossip/tests/mutants.sh            every mutation
#   backend-gossip/tests/mutants.sh stale      those whose name contains "stale"
#   SIM_SEEDS=200 backend-gossip/tests/mutants.sh
#
# Works on a copy of the workspace below target/, so that the sources stay as they are. Prints which
# checkers caught each mutation, and ends with an error where one survives or no longer applies.

set -euo pipefail
cd "$(dirname "$0")/../.."

only=${1:-}
seeds=${SIM_SEEDS:-64}
copy=target/mutants
engine=$copy/backend-gossip/src/engine
survived=0

# mutation NAME FILE SED-SCRIPT
mutation() {
    local name=$1 file=$engine/$2 script=$3
    [[ $name == *"$only"* ]] || return 0
    cp "$file" "$file.whole"
    sed -i -E "$script" "$file"
    if cmp -s "$file" "$file.whole"; then
        verdict="no longer applies: the source has changed"
        survived=1
    else
        judge
    fi
    mv "$file.whole" "$file"
    printf '| %-46s | %s |\n' "$name" "$verdict"
}

# Builds and runs the copy; leaves in $verdict what failed.
judge() {
    local log=$copy/log
    if ! cargo test --quiet --manifest-path $copy/Cargo.toml --target-dir $copy/target \
        -p tidings-gossip --test sim --no-run >$log 2>&1; then
        verdict="does not compile, see $log"
        survived=1
        return
    fi
    SIM_SEEDS=$seeds RUST_BACKTRACE=0 timeout 1200 cargo test --quiet \
        --manifest-path $copy/Cargo.toml --target-dir $copy/target \
        -p tidings-gossip --test sim -- sweep::sweep scenarios >$log 2>&1 || true
    local caught
    caught=$(sed -n 's/^checker: //p' $log | sort | uniq -c | sort -rn |
        awk '{ printf "%s%s ×%s", separator, $2, $1; separator = ", " }')
    local scenarios
    scenarios=$(sed -nE 's/^    scenarios::[a-z]+::(.*)$/\1/p' $log | sort -u | wc -l)
    if grep -q '^test result: ok' $log; then
        verdict='**survived**'
        survived=1
    else
        verdict="${caught:-assertions} ($scenarios scenarios)"
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
    's/me\.incarnation = incarnation\.saturating_add\(1\);/me.incarnation = incarnation;/'
mutation 'accusations of this member are ignored' merge.rs \
    's/if accuse\.member == self\.me \{/if accuse.member == self.me { return;/'
mutation 'a stale alive brings the dead back' merge.rs \
    's/newer > \(member\.generation, member\.incarnation\)/newer >= (member.generation, member.incarnation)/'
mutation 'suspicions never end' conviction.rs \
    's/self\.stats\.deaths \+= 1;/if now >= now { return; }/'
mutation 'suspicions end at once' suspicion.rs \
    's/^        self\.started \+ self\.time\(\)$/        self.started/'
mutation 'nobody hears of a death' merge.rs \
    '/fn bury/,/^    }/s/self\.spread\(now, ItemKey::Member\(id\)\);//'
mutation 'records of the dead stay visible' merge.rs \
    '/fn bury/,/^    }/s/self\.index_records\(id\);//'
mutation 'the return of a member is told to nobody' merge.rs \
    '/fn reappear/,/^    }/s/self\.index_records\(id\);//'
mutation 'a cut-off member convicts' contact.rs \
    's/(fn conviction_held.*\{)$/\1 if now >= suspected { return None; }/'
mutation 'a pause is not noticed' mod.rs \
    's/self\.after_pause\(now\);//'
mutation 'dead members are never tried again' join.rs \
    's/self\.knock\(id\);/let _ = id;/'
mutation 'a leave is told to nobody' join.rs \
    's/let good_bye = .*$/let good_bye: Option<Message> = None;/'
mutation 'a rival of the same name is ignored' merge.rs \
    's/alive\.generation >= generation \&\& alive\.address != self\.identity\.address/false/'

# Records.
mutation 'tombstones are forgotten' registrations.rs \
    '/pub fn deregister/,/^    }/s/self\.write\(now, key, None\);/self.drop_record(self.me, key);/'
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
    's/let fresh = std::mem::take\(\&mut self\.fresh\);/self.fresh.clear(); let fresh = std::mem::take(\&mut self.fresh);/'
mutation 'nothing is synced' sync.rs \
    '/fn sync\(\&mut self, now: Instant\)/,/^    }/s/self\.start_sync\(address\);/let _ = address;/'
mutation 'what was refuted is confirmed all the same' probe.rs \
    's/if self\.members\.find\(id\)\.filter\(suspected\)\.is_some\(\) \{/if self.members.find(id).filter(suspected).is_some() || now == now {/'
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

exit $survived
