//! Inputs with a structure: steps, one after the other. Every sequence of bytes is one, so that no
//! mutation is lost.

/// Reads steps.
#[derive(Debug)]
pub(crate) struct Script<'a> {
    bytes: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The next byte; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// The next byte, 0 at the end.
    pub(crate) fn byte(&mut self) -> u8 {
        self.next().unwrap_or_default()
    }

    /// The next byte as one of `count`.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// Two bytes, the higher one first.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A length of two bytes and what follows, up to that many.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let len = usize::from(self.short()).min(self.bytes.len());
        let (chunk, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        chunk
    }
}

/// Appends what [`Script::chunk`] reads.
pub(crate) fn put_chunk(out: &mut Vec<u8>, chunk: &[u8]) {
    let len = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&chunk[..usize::from(len)]);
}
