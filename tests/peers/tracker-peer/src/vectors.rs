//! Keys and records as the crate makes them.

use anyhow::Result;
use data_encoding::HEXLOWER;
use distributed_topic_tracker::{
    GossipRecordContent, Record, RecordPublisher, RotationHandle, TopicId, encryption_keypair,
    salt, signing_keypair,
};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

/// Name, secret and minute of each vector; the minutes differ in every byte order.
const CASES: [(&str, &str, u64); 4] = [
    ("my-iroh-gossip-topic", "my-initial-secret", 29_000_000),
    ("my-iroh-gossip-topic", "my-initial-secret", 29_000_001),
    ("trépas ☃", "", 1),
    ("kukuri", "geheim", 0x0102_0304_0506_0708),
];

pub fn all() -> Result<Value> {
    let vectors = CASES
        .iter()
        .enumerate()
        .map(|(index, (name, secret, minute))| vector(index as u8, name, secret, *minute))
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({"vectors": vectors}))
}

fn vector(index: u8, name: &str, secret: &str, minute: u64) -> Result<Value> {
    let topic = TopicId::new(name);
    let publisher = SigningKey::from_bytes(&[index + 1; 32]);
    // The only public way to the secret's hash.
    let initial =
        RecordPublisher::builder(topic.clone(), publisher.clone(), secret.as_bytes().to_vec())
            .build()
            .initial_secret_hash();
    let owner = signing_keypair(&topic, minute);
    let encryption = encryption_keypair(&topic, &RotationHandle::default(), initial, minute);
    let used = usize::from(index) + 1;
    let id = |n: usize| {
        SigningKey::from_bytes(&[n as u8 + 100; 32])
            .verifying_key()
            .to_bytes()
    };
    let mut content = GossipRecordContent {
        active_peers: [[0; 32]; 5],
        last_message_hashes: [[0; 32]; 5],
    };
    for n in 0..used {
        content.active_peers[n] = id(n);
        content.last_message_hashes[n] = [n as u8 + 200; 32];
    }
    let peers: Vec<_> = (0..used).map(|n| hex(&id(n))).collect();
    let hashes: Vec<_> = (0..used).map(|n| hex(&[n as u8 + 200; 32])).collect();
    let record = Record::sign(topic.hash(), minute, content, &publisher)?;
    let sealed = record.encrypt(&encryption).to_bytes()?;
    Ok(json!({
        "group": "records",
        "name": format!("{index}-{name}"),
        "inputs": {
            "topic": name,
            "secret_hex": hex(secret.as_bytes()),
            "minute": minute,
            "publisher_seed_hex": hex(&publisher.to_bytes()),
            "active_peers": peers,
            "message_hashes": hashes,
        },
        "expected": {
            "topic_id": hex(&topic.hash()),
            "owner_seed_hex": hex(&owner.to_bytes()),
            "owner": hex(owner.verifying_key().as_bytes()),
            "salt_hex": hex(&salt(&topic, minute)),
            "encryption_seed_hex": hex(&encryption.to_bytes()),
            "publisher": hex(publisher.verifying_key().as_bytes()),
            "record_hex": hex(&record.to_bytes()),
            "sealed_hex": hex(&sealed),
        },
    }))
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}
