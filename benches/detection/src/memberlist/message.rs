//! What members say to each other. The encoding is this program's own; `nominal_bytes` is about
//! what memberlist's takes, so that as many messages share a packet.

/// A member: the number of its host.
pub(super) type MemberId = u32;

/// State of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Alive,
    Suspect,
    Dead,
}

/// A row of the member table as a push/pull carries it.
pub(super) type Row = (MemberId, u32, State);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Ping {
        sequence: u32,
        target: MemberId,
    },
    Ack {
        sequence: u32,
    },
    Nack {
        sequence: u32,
    },
    IndirectPing {
        sequence: u32,
        target: MemberId,
    },
    Alive {
        member: MemberId,
        incarnation: u32,
    },
    Suspect {
        member: MemberId,
        incarnation: u32,
        from: MemberId,
    },
    Dead {
        member: MemberId,
        incarnation: u32,
        from: MemberId,
    },
    /// One side's whole member table; `answer` is the other side's.
    PushPull {
        answer: bool,
        rows: Vec<Row>,
    },
}

impl Message {
    /// About the length of memberlist's encoding: MessagePack maps with field names.
    pub(super) fn nominal_bytes(&self) -> usize {
        match self {
            Self::Ping { .. } | Self::IndirectPing { .. } => 65,
            Self::Ack { .. } | Self::Nack { .. } => 20,
            Self::Alive { .. } => 75,
            Self::Suspect { .. } | Self::Dead { .. } => 42,
            Self::PushPull { rows, .. } => 32 + 75 * rows.len(),
        }
    }

    pub(super) fn encode(&self, frame: &mut Vec<u8>) {
        let mut put = |tag: u8, words: &[u32]| {
            frame.push(tag);
            for word in words {
                frame.extend_from_slice(&word.to_le_bytes());
            }
        };
        match self {
            Self::Ping { sequence, target } => put(1, &[*sequence, *target]),
            Self::Ack { sequence } => put(2, &[*sequence]),
            Self::Nack { sequence } => put(3, &[*sequence]),
            Self::IndirectPing { sequence, target } => put(4, &[*sequence, *target]),
            Self::Alive {
                member,
                incarnation,
            } => put(5, &[*member, *incarnation]),
            Self::Suspect {
                member,
                incarnation,
                from,
            } => put(6, &[*member, *incarnation, *from]),
            Self::Dead {
                member,
                incarnation,
                from,
            } => put(7, &[*member, *incarnation, *from]),
            Self::PushPull { answer, rows } => {
                let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
                put(if *answer { 9 } else { 8 }, &[count]);
                for (member, incarnation, state) in rows {
                    let state = match state {
                        State::Alive => 0,
                        State::Suspect => 1,
                        State::Dead => 2,
                    };
                    put(state, &[*member, *incarnation]);
                }
            }
        }
    }

    /// Takes the first message off a frame; `None` at its end, and for what is none.
    pub(super) fn decode(frame: &mut &[u8]) -> Option<Self> {
        let tag = byte(frame)?;
        Some(match tag {
            1 => Self::Ping {
                sequence: word(frame)?,
                target: word(frame)?,
            },
            2 => Self::Ack {
                sequence: word(frame)?,
            },
            3 => Self::Nack {
                sequence: word(frame)?,
            },
            4 => Self::IndirectPing {
                sequence: word(frame)?,
                target: word(frame)?,
            },
            5 => Self::Alive {
                member: word(frame)?,
                incarnation: word(frame)?,
            },
            6 => Self::Suspect {
                member: word(frame)?,
                incarnation: word(frame)?,
                from: word(frame)?,
            },
            7 => Self::Dead {
                member: word(frame)?,
                incarnation: word(frame)?,
                from: word(frame)?,
            },
            8 | 9 => {
                let mut rows = Vec::new();
                for _ in 0..word(frame)? {
                    let state = match byte(frame)? {
                        0 => State::Alive,
                        1 => State::Suspect,
                        _ => State::Dead,
                    };
                    rows.push((word(frame)?, word(frame)?, state));
                }
                Self::PushPull {
                    answer: tag == 9,
                    rows,
                }
            }
            _ => return None,
        })
    }
}

fn byte(frame: &mut &[u8]) -> Option<u8> {
    let (first, rest) = frame.split_first()?;
    *frame = rest;
    Some(*first)
}

fn word(frame: &mut &[u8]) -> Option<u32> {
    let (first, rest) = frame.split_first_chunk()?;
    *frame = rest;
    Some(u32::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let messages = [
            Message::Ping {
                sequence: 1,
                target: 2,
            },
            Message::Ack { sequence: 3 },
            Message::Nack { sequence: 4 },
            Message::IndirectPing {
                sequence: 5,
                target: 6,
            },
            Message::Alive {
                member: 7,
                incarnation: 8,
            },
            Message::Suspect {
                member: 9,
                incarnation: 10,
                from: 11,
            },
            Message::Dead {
                member: 12,
                incarnation: 13,
                from: 14,
            },
            Message::PushPull {
                answer: true,
                rows: vec![(15, 16, State::Suspect), (17, 18, State::Dead)],
            },
        ];
        let mut frame = Vec::new();
        for message in &messages {
            message.encode(&mut frame);
        }
        let mut rest = &frame[..];
        for message in messages {
            assert_eq!(Message::decode(&mut rest), Some(message));
        }
        assert_eq!(Message::decode(&mut rest), None);
    }
}
