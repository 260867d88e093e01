//! The partitioner of the Java client for records with a key: 32-bit Murmur2, its sign bit dropped, modulo partitions.

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// The partition that the Java client's default partitioner gives a record with this key.
pub fn partition(key: &[u8], partitions: u32) -> u32 {
    (hash(key) & 0x7fff_ffff) % partitions
}

fn hash(data: &[u8]) -> u32 {
    let mut hash = SEED ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(MULTIPLIER);
        k ^= k >> SHIFT;
        hash = hash.wrapping_mul(MULTIPLIER) ^ k.wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Java client's own test vectors.
    #[test]
    fn hashes_as_the_java_client_does() {
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (data, expected) in vectors {
            assert_eq!(hash(data) as i32, expected, "{}", String::from_utf8_lossy(data));
        }
    }

    /// What the Java client's own partitioner said: see `tests/java/Murmur2Vectors.java`.
    #[test]
    fn places_keys_where_the_java_client_does() {
        let vectors = include_str!("../tests/java/murmur2.txt");
        assert_eq!(vectors.lines().count(), 600);
        for line in vectors.lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [partitions, key, expected] = parts[..] else { panic!("{line:?} is no vector") };
            let key: Vec<u8> = (0..key.len()).step_by(2).map(|at| u8::from_str_radix(&key[at..at + 2], 16).expect("hexadecimal")).collect();
            let partitions = partitions.parse().expect("a number");
            assert_eq!(partition(&key, partitions).to_string(), expected, "{line}");
        }
    }

    #[test]
    fn a_negative_hash_loses_its_sign_not_its_place() {
        assert_eq!(partition(b"21", 1000), ((-973_932_308_i32) & 0x7fff_ffff) as u32 % 1000);
        assert_eq!(partition(b"", 1), 0);
    }
}
