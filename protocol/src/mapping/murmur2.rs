//! The hash by which Kafka's Java client chooses a partition, so that Hydrant's records share
//! partitions with everyone else's.
//!
//! Source: `org.apache.kafka.common.utils.Utils.murmur2` and `BuiltInPartitioner`.

/// The 32-bit murmur2 of Kafka's Java client (which reads the result as a signed number).
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // The Java length is an int; a key is bounded by the MQTT topic, 65,535 bytes.
    let mut hash = SEED ^ (data.len() as u32);
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key: `toPositive(murmur2(key)) % partitions`. 0 where `partitions` is 0.
pub fn partition(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_as_the_java_client_does() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_partition_is_never_out_of_range() {
        assert_eq!(partition(b"21", 1), 0);
        // toPositive clears the sign bit, it does not negate.
        assert_eq!(partition(b"21", 10), ((-973_932_308i32 & 0x7fff_ffff) % 10) as u32);
        assert_eq!(partition(b"21", 0), 0);
    }
}
