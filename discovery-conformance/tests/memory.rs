//! The contract, against the memory backend.

use tidings_conformance::MemoryFixture;

tidings_conformance::suite!(memory, MemoryFixture);
