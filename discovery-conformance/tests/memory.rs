//! The contract, against the memory backend.

use tidings_conformance::MemoryFixture;

tidings_conformance::suite!(
    memory,
    MemoryFixture,
    ignore {
        lim_3_an_unknown_option_is_refused = "the memory backend has nothing to configure",
        lim_3_a_bad_value_is_refused = "the memory backend has nothing to configure",
        lim_3_secrets_are_not_shown = "the memory backend has nothing to configure",
    }
);
