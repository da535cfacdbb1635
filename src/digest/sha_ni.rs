//! SHA-256 of the same blocks into two states at once, by the processor's own
//! instructions.
//!
//! What it is for: one round of SHA-256 waits for the one before. A second state keeps
//! the processor busy meanwhile, and both share the message schedule: two digests take
//! 1.15 times as long as one. Must not know what is hashed.
#![expect(
    unsafe_code,
    reason = "whoever calls a function for a processor's feature says that it is there"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
    _mm_shuffle_epi32,
};

/// A state of SHA-256.
pub(super) type State = [u32; 8];
/// What is hashed at a time.
pub(super) type Block = [u8; 64];

/// Proof that the processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShaNi(());

impl ShaNi {
    /// The proof, on processors that have them.
    pub(super) fn find() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("sha")
            && std::arch::is_x86_feature_detected!("ssse3")
            && std::arch::is_x86_feature_detected!("sse4.1")
        {
            return Some(Self(()));
        }
        None
    }

    /// Takes the blocks into both states.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn compress(self, states: &mut [State; 2], blocks: &[Block]) {
        // SAFETY: `find`, which alone makes the proof, has found the features.
        unsafe { compress(states, blocks) }
    }

    /// Nobody has the proof here.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn compress(self, states: &mut [State; 2], blocks: &[Block]) {
        for state in states {
            sha2::block_api::compress256(state, blocks);
        }
    }
}

/// FIPS 180-4, section 4.2.2.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// The instructions want the words of a state as `abef` and `cdgh` (Intel SDM,
/// SHA256RNDS2). No closures here: one that is handed to a function without the features
/// would be called for every word.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress(states: &mut [State; 2], blocks: &[Block]) {
    let [(mut abef0, mut cdgh0), (mut abef1, mut cdgh1)] = [load(&states[0]), load(&states[1])];
    for block in blocks {
        let before = [abef0, cdgh0, abef1, cdgh1];
        let [mut w0, mut w1, mut w2, mut w3] = schedule(block);
        for (turn, constants) in K.as_chunks::<16>().0.iter().enumerate() {
            let constants = constants.as_chunks::<4>().0;
            for k in constants {
                let k = _mm_set_epi32(
                    k[3].cast_signed(),
                    k[2].cast_signed(),
                    k[1].cast_signed(),
                    k[0].cast_signed(),
                );
                let low = _mm_add_epi32(w0, k);
                let high = _mm_shuffle_epi32::<0x0e>(low);
                cdgh0 = _mm_sha256rnds2_epu32(cdgh0, abef0, low);
                cdgh1 = _mm_sha256rnds2_epu32(cdgh1, abef1, low);
                abef0 = _mm_sha256rnds2_epu32(abef0, cdgh0, high);
                abef1 = _mm_sha256rnds2_epu32(abef1, cdgh1, high);
                // The last turn needs no more words.
                let next = if turn < 3 {
                    let sum = _mm_sha256msg1_epu32(w0, w1);
                    let sum = _mm_add_epi32(sum, _mm_alignr_epi8::<4>(w3, w2));
                    _mm_sha256msg2_epu32(sum, w3)
                } else {
                    w0
                };
                (w0, w1, w2, w3) = (w1, w2, w3, next);
            }
        }
        abef0 = _mm_add_epi32(abef0, before[0]);
        cdgh0 = _mm_add_epi32(cdgh0, before[1]);
        abef1 = _mm_add_epi32(abef1, before[2]);
        cdgh1 = _mm_add_epi32(cdgh1, before[3]);
    }
    states[0] = store(abef0, cdgh0);
    states[1] = store(abef1, cdgh1);
}

/// The first sixteen words of a block, which are big-endian there.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "ssse3")]
fn schedule(block: &Block) -> [__m128i; 4] {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut words = [swap; 4];
    for (four, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
        let [low, high] = [bytes.as_chunks::<8>().0[0], bytes.as_chunks::<8>().0[1]];
        let raw = _mm_set_epi64x(i64::from_le_bytes(high), i64::from_le_bytes(low));
        *four = _mm_shuffle_epi8(raw, swap);
    }
    words
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn load(state: &State) -> (__m128i, __m128i) {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse4.1")]
fn store(abef: __m128i, cdgh: __m128i) -> State {
    [
        _mm_extract_epi32::<3>(abef),
        _mm_extract_epi32::<2>(abef),
        _mm_extract_epi32::<3>(cdgh),
        _mm_extract_epi32::<2>(cdgh),
        _mm_extract_epi32::<1>(abef),
        _mm_extract_epi32::<0>(abef),
        _mm_extract_epi32::<1>(cdgh),
        _mm_extract_epi32::<0>(cdgh),
    ]
    .map(i32::cast_unsigned)
}
