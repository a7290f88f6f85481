//! A DNS question to an agent, as any client of Consul's DNS would ask it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

const TYPE_A: u16 = 1;
const TYPE_SRV: u16 = 33;

/// The IPv4 addresses of a name.
pub(crate) async fn addresses(agent: SocketAddr, name: &str) -> Vec<Ipv4Addr> {
    let answers = ask(agent, name, TYPE_A).await;
    let data = answers.into_iter().filter(|(kind, _)| *kind == TYPE_A);
    data.filter_map(|(_, data)| <[u8; 4]>::try_from(data).ok())
        .map(Ipv4Addr::from)
        .collect()
}

/// The weights and ports of a name.
pub(crate) async fn services(agent: SocketAddr, name: &str) -> Vec<(u16, u16)> {
    let answers = ask(agent, name, TYPE_SRV).await;
    let data = answers.into_iter().filter(|(kind, _)| *kind == TYPE_SRV);
    data.map(|(_, data)| (number(&data, 2), number(&data, 4)))
        .collect()
}

async fn ask(agent: SocketAddr, name: &str, kind: u16) -> Vec<(u16, Vec<u8>)> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    // Id 7, recursion desired, one question of class IN.
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(kind.to_be_bytes());
    question.extend(1u16.to_be_bytes());
    let mut answer = vec![0; 4096];
    for _ in 0..10 {
        socket.send_to(&question, agent).await.unwrap();
        let receive = socket.recv(&mut answer);
        if let Ok(length) = tokio::time::timeout(Duration::from_secs(3), receive).await {
            answer.truncate(length.unwrap());
            return records(&answer, question.len());
        }
    }
    panic!("no answer from the agent's dns at {agent}");
}

/// Type and data of each record of the answer section, which starts behind the question.
fn records(answer: &[u8], mut at: usize) -> Vec<(u16, Vec<u8>)> {
    let count = number(answer, 6);
    let mut records = Vec::new();
    for _ in 0..count {
        at = behind_name(answer, at);
        let (kind, length) = (number(answer, at), usize::from(number(answer, at + 8)));
        records.push((kind, answer[at + 10..at + 10 + length].to_vec()));
        at += 10 + length;
    }
    records
}

fn behind_name(answer: &[u8], mut at: usize) -> usize {
    loop {
        match answer[at] {
            0 => return at + 1,
            pointer if pointer >= 0xc0 => return at + 2,
            length => at += usize::from(length) + 1,
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
