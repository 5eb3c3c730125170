//! Payloads that both sides can compute, so that bulk tests need not ship them as commands.

/// Payload number `index` of `seed`: the first `size` bytes of
/// `BLAKE3-XOF(seed as 8 bytes little-endian ‖ index as 8 bytes little-endian)`.
///
/// In Python: `blake3(seed.to_bytes(8, "little") + index.to_bytes(8, "little")).digest(length=size)`.
/// From 8 bytes up they are distinct in practice; equal payloads would be suppressed as duplicates.
pub fn payload(seed: u64, index: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .update(&index.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::payload;

    #[test]
    fn a_longer_payload_continues_a_shorter_one() {
        assert_eq!(payload(1, 2, 10), payload(1, 2, 4057)[..10]);
        assert_ne!(payload(1, 2, 16), payload(1, 3, 16));
    }
}
