#!/usr/bin/env bash
# Breaks the engine on purpose, one line at a time, and shows which checker of the simulator notices.
#
#   backend-gossip/tests/mutants.sh [NAME...]      SEEDS=64 by default
#
# Works on a copy of the workspace in a temporary directory. Ends with 1 if a mutant survives.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
seeds=${SEEDS:-64}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=${MUTANTS_TARGET_DIR:-$copy/target}

# name | file in engine/ | line as it is | line as it becomes
mutants() {
    cat <<'LIST'
refutation-keeps-its-incarnation|merge.rs|me.incarnation = incarnation.saturating_add(1);|me.incarnation = incarnation;
tombstone-forgotten|mod.rs|                self.write(now, key, None);|                self.drop_record(self.me, key);
suspicion-never-ends|merge.rs|        self.stats.deaths += 1;|        self.stats.deaths += 1; if incarnation < u64::MAX { return; }
dead-members-stay-in-views|mod.rs|is_some_and(Member::is_present)|is_some()
stale-alive-resurrects|merge.rs|newer > (member.generation, member.incarnation),|newer >= (member.generation, member.incarnation),
older-records-win|merge.rs|Some(known) if known.version >= record.version => return,|Some(known) if known.version > record.version.saturating_add(9) => return,
wanted-items-not-sent|sync.rs|pub(super) fn handle_want(&self, positions: &[u64], answer: &mut Answer) {|pub(super) fn handle_want(&self, positions: &[u64], answer: &mut Answer) { let positions = &positions[..0];
cut-off-member-convicts|contact.rs|fn cut_off(&self, now: Instant) -> Option<bool> {|fn cut_off(&self, now: Instant) -> Option<bool> { if now >= self.contact.started { return None; }
datagrams-too-large|spread.rs|} else if frame.len() + bytes.len() <= space {|} else if frame.len() <= space {
superseded-owner-not-told|merge.rs|            self.events.push_back(Event::Superseded(key.clone()));|            let _ = key;
records-of-a-former-start-kept|merge.rs|                self.drop_records(id);|
LIST
}

copy_workspace() {
    rm -rf "$copy/workspace"
    mkdir "$copy/workspace"
    (cd "$root" && tar cf - --exclude=./target --exclude=./.git --exclude=./benches/peers/target .) |
        tar xf - -C "$copy/workspace"
}

# Replaces the first line that contains $2 in file $1.
replace() {
    LINE=$2 BY=$3 perl -0pi -e 's/\Q$ENV{LINE}\E/$ENV{BY}/ or die "not found: $ENV{LINE}\n"' "$1"
}

sweep() {
    (cd "$copy/workspace" &&
        SIM_SEEDS=$seeds cargo test -q -p tidings-gossip --test sim sweep::sweep 2>&1) || true
}

survivors=0
printf '%-34s %s\n' mutant 'checkers that noticed (seeds)'
while IFS='|' read -r name file line by; do
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    copy_workspace
    replace "$copy/workspace/backend-gossip/src/engine/$file" "$line" "$by"
    output=$(sweep)
    if grep -q '^error' <<<"$output" && ! grep -q '^checker:' <<<"$output"; then
        printf '%s\n' "$output" | grep -m1 -A6 '^error' >&2
        printf '%-34s does not compile\n' "$name"
        survivors=$((survivors + 1))
        continue
    fi
    noticed=$(grep '^checker:' <<<"$output" | grep -v faults-happened | awk '{print $2}' |
        sort | uniq -c | sort -rn | awk '{printf "%s%s (%s)", sep, $2, $1; sep=", "}')
    [ -n "$noticed" ] || survivors=$((survivors + 1))
    printf '%-34s %s\n' "$name" "${noticed:-NOBODY NOTICED}"
done < <(mutants)
exit $((survivors > 0))
