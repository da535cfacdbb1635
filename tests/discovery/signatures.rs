//! Who signed it: keys are made here, by the same crate and by `gpg` where that is.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lazyroot::discovery::{DiscoveryError, Keyring, Method, Signature, SignatureError};
use pgp::composed::{
    ArmorOptions, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey, SubkeyParamsBuilder,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{
    KeyFlags, RevocationCode, SignatureConfig, SignatureType, Subpacket, SubpacketData,
};
use pgp::types::{KeyDetails as _, Password, SigningKey, Tag, Timestamp};
use rand::thread_rng;

use crate::finder::{Finder, says};
use crate::web::{Reply, Web};

const APP: &str = "example.com/app:1,os=linux,arch=amd64";
const FILE: &str = "example.com/app-1-linux-amd64.aci";
const IMAGE: &[u8] = b"the bytes of an image";
/// Nobody wants to stop.
static NEVER: AtomicBool = AtomicBool::new(false);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A key that may sign, and has a subkey that may too.
pub(crate) fn alice() -> SignedSecretKey {
    key("Alice <alice@example.com>", true, true)
}

fn key(user: &str, signs: bool, part_signs: bool) -> SignedSecretKey {
    let born = Timestamp::try_from(SystemTime::now() - 10 * DAY).unwrap();
    let part = SubkeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(part_signs)
        .can_authenticate(!part_signs)
        .created_at(born)
        .build()
        .unwrap();
    let mut params = SecretKeyParamsBuilder::default();
    params
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(signs)
        .created_at(born)
        .primary_user_id(user.to_owned())
        .subkey(part);
    params.build().unwrap().generate(thread_rng()).unwrap()
}

/// A keyring that trusts these for everything.
pub(crate) fn keyring(keys: &[&SignedSecretKey]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, key) in keys.iter().enumerate() {
        fs::write(
            dir.path().join(format!("{number}.asc")),
            armored(&key.to_public_key()),
        )
        .unwrap();
    }
    dir
}

fn armored(key: &SignedPublicKey) -> String {
    key.to_armored_string(ArmorOptions::default()).unwrap()
}

pub(crate) fn sign(by: &impl SigningKey, bytes: &[u8]) -> String {
    let hash = HashAlgorithm::Sha256;
    text(
        &DetachedSignature::sign_binary_data(thread_rng(), by, &Password::empty(), hash, bytes)
            .unwrap(),
    )
}

fn text(signature: &DetachedSignature) -> String {
    signature
        .to_armored_string(ArmorOptions::default())
        .unwrap()
}

/// A signature with a say in everything.
fn signed_as(
    by: &impl SigningKey,
    typ: SignatureType,
    hash: HashAlgorithm,
    made: SystemTime,
    more: Vec<Subpacket>,
) -> String {
    let mut config = SignatureConfig::v4(typ, by.algorithm(), hash);
    let made = SubpacketData::SignatureCreationTime(Timestamp::try_from(made).unwrap());
    config.hashed_subpackets = vec![
        Subpacket::regular(made).unwrap(),
        Subpacket::regular(SubpacketData::IssuerFingerprint(by.fingerprint())).unwrap(),
    ];
    config.hashed_subpackets.extend(more);
    let signature = config.sign(by, &Password::empty(), IMAGE).unwrap();
    text(&DetachedSignature::new(signature))
}

/// A server of the image and of this signature; `None` is none.
fn serving(signature: Option<String>) -> Web {
    Web::new(
        move |asked| match (asked.url.ends_with(".asc"), &signature) {
            (false, _) => Reply::ok(IMAGE),
            (true, Some(signature)) => Reply::ok(signature.as_str()),
            (true, None) => Reply::status(404),
        },
    )
}

/// What the fetch of an image with this signature says, if `dir` is the keyring.
#[track_caller]
fn refused(dir: &Path, signature: String, words: &[&str]) -> DiscoveryError {
    let web = serving(Some(signature));
    let error = Finder::simple(&web).trusting(dir, false).refused(APP);
    says(&error, words);
    assert!(matches!(error, DiscoveryError::Signature { .. }));
    error
}

#[test]
fn an_image_that_a_trusted_key_signed_is_taken_and_its_signer_named() {
    let alice = alice();
    let keys = keyring(&[&key("Bob", true, true), &alice]);
    let by_key = sign(&alice.primary_key, IMAGE);
    let by_part = sign(&alice.secret_subkeys[0].key, IMAGE);
    for signature in [by_key, by_part] {
        let web = serving(Some(signature));
        let finder = Finder::simple(&web).trusting(keys.path(), true);
        let fetched = finder.fetched(APP).unwrap();
        let Signature::Good(signer) = fetched.signature else {
            panic!("{:?}", fetched.signature);
        };
        assert_eq!(signer.user.as_deref(), Some("Alice <alice@example.com>"));
        assert_eq!(signer.fingerprint, alice.fingerprint().to_string());
        assert_eq!(
            finder.bytes(APP),
            IMAGE,
            "verifying leaves it at its beginning"
        );
    }
}

#[test]
fn without_a_keyring_no_signature_is_asked_for() {
    let web = serving(Some("rubbish".to_owned()));
    let finder = Finder::simple(&web);
    assert_eq!(finder.fetched(APP).unwrap().signature, Signature::Unchecked);
    assert_eq!(web.urls(), [web.url(FILE)]);
    let mut finder = Finder::simple(&web);
    finder.settings.require_signature = true;
    assert!(matches!(finder.refused(APP), DiscoveryError::NoKeyring));
}

#[test]
fn a_missing_signature_is_told_or_refused() {
    let keys = keyring(&[&alice()]);
    let web = serving(None);
    let lax = Finder::simple(&web).trusting(keys.path(), false);
    assert_eq!(lax.fetched(APP).unwrap().signature, Signature::Missing);
    let asked = web.asked().len();
    let strict = Finder::simple(&web).trusting(keys.path(), true);
    says(
        &strict.refused(APP),
        &["there is no signature, and one is required"],
    );
    assert!(web.asked().len() <= asked + 2);
    assert_eq!(
        strict.left(),
        [""; 0],
        "the image is not fetched for nothing"
    );
    // That there is no image either is told as that.
    let nothing = Web::new(|_| Reply::status(404));
    let error = Finder::simple(&nothing)
        .trusting(keys.path(), true)
        .refused(APP);
    assert!(matches!(error, DiscoveryError::NotFound { .. }), "{error}");
}

#[test]
fn a_signature_that_cannot_be_fetched_is_not_a_missing_one() {
    let keys = keyring(&[&alice()]);
    let web = Web::new(|asked| match asked.url.ends_with(".asc") {
        true => Reply::status(500),
        false => Reply::ok(IMAGE),
    });
    let error = Finder::simple(&web)
        .trusting(keys.path(), false)
        .refused(APP);
    // The image's URL was named, and nobody had asked for that.
    says(
        &error,
        &[&format!(
            "(`{}.asc`: the server answered 500)",
            web.url(FILE)
        )],
    );
    assert!(web.urls().iter().all(|url| url.ends_with(".asc")));
}

#[test]
fn a_signature_of_something_else_is_always_an_error() {
    let alice = alice();
    let keys = keyring(&[&alice]);
    let other = sign(&alice.primary_key, b"the bytes of another image");
    let error = refused(
        keys.path(),
        other,
        &["it does not match", &alice.fingerprint().to_string()],
    );
    assert!(error.hint().is_none());
}

#[test]
fn a_signature_of_somebody_unknown_names_who_it_is_and_where_keys_are() {
    let (alice, mallory) = (alice(), key("Alice <alice@example.com>", true, true));
    let keys = keyring(&[&alice]);
    let by = mallory.fingerprint().to_string();
    let error = refused(
        keys.path(),
        sign(&mallory.primary_key, IMAGE),
        &["no trusted key made it", &by],
    );
    assert!(error.hint().unwrap().contains("into the keyring"));
    let signature = sign(&mallory.primary_key, IMAGE);
    let web = Web::new(move |asked| match &*asked.url {
        "http://example.com/app?ac-discovery=1" => Reply::ok(
            "<meta name=ac-discovery content='example.com http://other.org/app.{ext}'>
             <meta name=ac-discovery-pubkeys content='example.com https://example.com/keys'>",
        ),
        "http://other.org/app.aci.asc" => Reply::ok(signature.as_str()),
        _ => Reply::ok(IMAGE),
    });
    let error = Finder::meta(&web).trusting(keys.path(), false).refused(APP);
    assert!(error.hint().unwrap().ends_with("https://example.com/keys"));
    let keys_asked = web.urls().iter().any(|url| url.contains("keys"));
    assert!(
        !keys_asked,
        "keys are never taken from where the image comes from"
    );
}

#[test]
fn what_is_no_signature_is_an_error() {
    let alice = alice();
    let keys = keyring(&[&alice]);
    let whole = sign(&alice.primary_key, IMAGE);
    for rubbish in [
        String::new(),
        "<html>not here</html>".to_owned(),
        whole[..whole.len() / 2].to_owned(),
        armored(&alice.to_public_key()),
    ] {
        refused(keys.path(), rubbish, &["is not an OpenPGP signature"]);
    }
}

#[test]
fn no_damage_of_a_signature_makes_it_good_or_panics() {
    let alice = alice();
    let keys = keyring(&[&alice]);
    let ring = Keyring::read(keys.path()).unwrap();
    let mut image = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut image, IMAGE).unwrap();
    let hash = HashAlgorithm::Sha256;
    let made = DetachedSignature::sign_binary_data(
        thread_rng(),
        &alice.primary_key,
        &Password::empty(),
        hash,
        IMAGE,
    );
    let bytes = pgp::ser::Serialize::to_bytes(&made.unwrap()).unwrap();
    let verify = |bytes: &[u8]| ring.verify("app", bytes, &image, SystemTime::now(), &NEVER);
    verify(&bytes).unwrap();
    let mut harmless = 0;
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // The key ID outside the hashed part is only a hint.
        harmless += usize::from(verify(&damaged).is_ok());
    }
    assert!(harmless <= 10 * 8, "{harmless} damaged bits went unnoticed");
    for len in 0..bytes.len() {
        assert!(verify(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn signatures_that_do_not_count_are_refused_with_the_rule() {
    let alice = alice();
    let keys = keyring(&[&alice]);
    let by = &alice.primary_key;
    let (now, sha256, binary) = (
        SystemTime::now(),
        HashAlgorithm::Sha256,
        SignatureType::Binary,
    );
    let life = |days: u32| {
        let days = pgp::types::Duration::try_from(days * DAY).unwrap();
        vec![Subpacket::regular(SubpacketData::SignatureExpirationTime(days)).unwrap()]
    };
    let critical = Subpacket::critical(SubpacketData::Experimental(101, b"?".as_slice().into()));
    for (signature, why) in [
        (
            signed_as(by, SignatureType::Text, sha256, now, vec![]),
            "not a signature of a file",
        ),
        (
            signed_as(by, binary, sha256, now + 30 * DAY, vec![]),
            "made in the future",
        ),
        (
            signed_as(by, binary, sha256, now - 30 * DAY, vec![]),
            "it is older than the key",
        ),
        (
            signed_as(by, binary, sha256, now - 3 * DAY, life(1)),
            "it has expired",
        ),
        (
            signed_as(by, binary, sha256, now, vec![critical.unwrap()]),
            "a critical part",
        ),
    ] {
        refused(keys.path(), signature, &["does not count", why]);
    }
    let good = signed_as(by, binary, sha256, now - 3 * DAY, life(30));
    let web = serving(Some(good));
    let finder = Finder::simple(&web).trusting(keys.path(), true);
    assert!(matches!(
        finder.fetched(APP).unwrap().signature,
        Signature::Good(_)
    ));
}

#[test]
fn a_weak_hash_does_not_count() {
    // The crate lets only RSA keys sign SHA-1 at all.
    let params = SecretKeyParamsBuilder::default()
        .key_type(KeyType::Rsa(2048))
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("Old".to_owned())
        .build();
    let old = params.unwrap().generate(thread_rng()).unwrap();
    let keys = keyring(&[&old]);
    let (now, binary) = (SystemTime::now(), SignatureType::Binary);
    let by = |hash| signed_as(&old.primary_key, binary, hash, now, vec![]);
    refused(
        keys.path(),
        by(HashAlgorithm::Sha1),
        &["does not count", "its hash is too weak"],
    );
    let web = serving(Some(by(HashAlgorithm::Sha512)));
    let fetched = Finder::simple(&web)
        .trusting(keys.path(), true)
        .fetched(APP);
    assert!(matches!(fetched.unwrap().signature, Signature::Good(_)));
}

#[test]
fn keys_that_may_not_sign_do_not() {
    let certifies = key("Carol", false, false);
    let keys = keyring(&[&certifies]);
    refused(
        keys.path(),
        sign(&certifies.primary_key, IMAGE),
        &["the key is not for signing"],
    );
    let by_part = sign(&certifies.secret_subkeys[0].key, IMAGE);
    refused(keys.path(), by_part, &["the subkey is not for signing"]);
}

/// The same public key with other signatures on it, in a keyring.
fn changed(key: &SignedSecretKey, change: impl FnOnce(&mut SignedPublicKey)) -> tempfile::TempDir {
    let mut public = key.to_public_key();
    change(&mut public);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("key.asc"), armored(&public)).unwrap();
    dir
}

#[test]
fn a_revoked_key_signs_nothing() {
    let alice = alice();
    let mut config = SignatureConfig::v4(
        SignatureType::KeyRevocation,
        alice.primary_key.algorithm(),
        HashAlgorithm::Sha256,
    );
    let reason =
        SubpacketData::RevocationReason(RevocationCode::KeyCompromised, b"".as_slice().into());
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::now())).unwrap(),
        Subpacket::regular(reason).unwrap(),
        Subpacket::regular(SubpacketData::IssuerFingerprint(alice.fingerprint())).unwrap(),
    ];
    let revoked = config
        .sign_key(
            &alice.primary_key,
            &Password::empty(),
            &alice.primary_key.public_key(),
        )
        .unwrap();
    let keys = changed(&alice, |public| {
        public.details.revocation_signatures.push(revoked)
    });
    refused(
        keys.path(),
        sign(&alice.primary_key, IMAGE),
        &["the key is revoked"],
    );
    refused(
        keys.path(),
        sign(&alice.secret_subkeys[0].key, IMAGE),
        &["the key is revoked"],
    );
}

/// What a key says of itself from now on.
fn says_of_itself(
    key: &SignedSecretKey,
    typ: SignatureType,
    more: Vec<SubpacketData>,
) -> SignatureConfig {
    let mut config = SignatureConfig::v4(typ, key.primary_key.algorithm(), HashAlgorithm::Sha256);
    let made = Timestamp::try_from(SystemTime::now() - DAY).unwrap();
    let first = [
        SubpacketData::SignatureCreationTime(made),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ];
    let all = first.into_iter().chain(more);
    config.hashed_subpackets = all.map(|data| Subpacket::regular(data).unwrap()).collect();
    config
}

#[test]
fn a_key_that_had_expired_signs_nothing_and_what_it_signed_before_stays_good() {
    // Born ten days ago; all that it says of itself is that it lived for five.
    let alice = alice();
    let life = pgp::types::Duration::try_from(5 * DAY).unwrap();
    let said = vec![SubpacketData::KeyExpirationTime(life)];
    let public = alice.to_public_key();
    let user = &public.details.users[0].id;
    let said = says_of_itself(&alice, SignatureType::CertPositive, said)
        .sign_certification(
            &alice.primary_key,
            &public.primary_key,
            &Password::empty(),
            Tag::UserId,
            user,
        )
        .unwrap();
    let keys = changed(&alice, |public| {
        public.details.users[0].signatures = vec![said]
    });
    let by = |days| {
        let made = SystemTime::now() - days * DAY;
        signed_as(
            &alice.primary_key,
            SignatureType::Binary,
            HashAlgorithm::Sha256,
            made,
            vec![],
        )
    };
    refused(keys.path(), by(0), &["the key had expired"]);
    let web = serving(Some(by(7)));
    let fetched = Finder::simple(&web)
        .trusting(keys.path(), true)
        .fetched(APP);
    assert!(matches!(fetched.unwrap().signature, Signature::Good(_)));
}

#[test]
fn a_revoked_subkey_signs_nothing_and_its_key_still_does() {
    let alice = alice();
    let public = alice.to_public_key();
    let revoked = says_of_itself(&alice, SignatureType::SubkeyRevocation, vec![])
        .sign_subkey_binding(
            &alice.primary_key,
            &public.primary_key,
            &Password::empty(),
            &public.public_subkeys[0].key,
        )
        .unwrap();
    let keys = changed(&alice, |public| {
        public.public_subkeys[0].signatures.push(revoked)
    });
    let by_part = sign(&alice.secret_subkeys[0].key, IMAGE);
    refused(keys.path(), by_part, &["the subkey is revoked"]);
    let web = serving(Some(sign(&alice.primary_key, IMAGE)));
    let fetched = Finder::simple(&web)
        .trusting(keys.path(), true)
        .fetched(APP);
    assert!(matches!(fetched.unwrap().signature, Signature::Good(_)));
}

/// The first copy that was trusted for the name counted, whatever the others said.
#[test]
fn a_key_is_revoked_wherever_in_the_keyring_a_copy_says_so() {
    let alice = alice();
    let public = alice.to_public_key();
    let (by, open) = (&alice.primary_key, Password::empty());
    let mut whole = public.clone();
    let key = says_of_itself(&alice, SignatureType::KeyRevocation, vec![]);
    let key = key.sign_key(by, &open, &by.public_key()).unwrap();
    whole.details.revocation_signatures.push(key);
    let mut part = public.clone();
    let subkey = says_of_itself(&alice, SignatureType::SubkeyRevocation, vec![])
        .sign_subkey_binding(
            by,
            &public.primary_key,
            &open,
            &public.public_subkeys[0].key,
        );
    part.public_subkeys[0].signatures.push(subkey.unwrap());
    let by_key = sign(&alice.primary_key, IMAGE);
    let by_part = sign(&alice.secret_subkeys[0].key, IMAGE);
    for (copy, signature, word) in [
        (&whole, &by_key, "the key is revoked"),
        (&whole, &by_part, "the key is revoked"),
        (&part, &by_part, "the subkey is revoked"),
    ] {
        let keys = keyring(&[&alice]);
        let other = keys.path().join("prefix.d/elsewhere.org");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("copy.asc"), armored(copy)).unwrap();
        refused(keys.path(), signature.clone(), &[word]);
    }
}

/// Of a file with several armored signatures only the first was looked at, and of keys
/// only those that begin a line.
#[test]
fn every_armored_block_of_a_file_is_read() {
    let (alice, bob) = (alice(), key("Bob", true, true));
    let keys = keyring(&[&alice, &bob]);
    let bad = sign(&bob.primary_key, b"x");
    let good = sign(&alice.primary_key, IMAGE);
    refused(keys.path(), good.clone() + &bad, &["it does not match"]);
    let mut image = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut image, IMAGE).unwrap();
    let verify = |ring: &Keyring, signature: &str| {
        ring.verify(
            "app",
            signature.as_bytes(),
            &image,
            SystemTime::now(),
            &NEVER,
        )
    };
    let ring = Keyring::read(keys.path()).unwrap();
    let unknown = sign(&key("Dave", true, true).primary_key, IMAGE);
    let signer = verify(&ring, &(unknown + &good)).unwrap();
    assert_eq!(signer.user.as_deref(), Some("Alice <alice@example.com>"));
    assert!(verify(&ring, &good.repeat(17)).is_err(), "too many");

    let mut two = armored(&alice.to_public_key());
    two.truncate(two.trim_end().len());
    two += &format!("  {}", armored(&bob.to_public_key()));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("two.asc"), two).unwrap();
    let ring = Keyring::read(dir.path()).unwrap();
    verify(&ring, &sign(&bob.primary_key, IMAGE)).unwrap();
}

/// Ctrl-C was seen when a file of a directory had been copied and read to its end.
#[test]
fn somebody_who_wants_to_stop_need_not_wait_for_a_large_file() {
    let alice = alice();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app-1-linux-amd64.aci");
    let large = fs::File::create_new(&path).unwrap();
    large.set_len(1 << 40).unwrap();
    fs::write(
        path.with_extension("aci.asc"),
        sign(&alice.primary_key, IMAGE),
    )
    .unwrap();
    let keys = keyring(&[&alice]);
    let mut finder = Finder::new(Method::Local(dir.path().to_owned())).trusting(keys.path(), true);
    finder.settings.max_size = u64::MAX;
    let ring = Keyring::read(keys.path()).unwrap();
    let signature = sign(&alice.primary_key, IMAGE);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            finder.stop.store(true, Ordering::Relaxed);
        });
        let error = finder.refused("app:1,os=linux,arch=amd64");
        assert!(matches!(error, DiscoveryError::Interrupted), "{error}");
    });
    let now = SystemTime::now();
    let stopped = ring.verify("app", signature.as_bytes(), &large, now, &finder.stop);
    assert!(matches!(stopped, Err(SignatureError::Read { .. })));
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_subkey_of_somebody_else_does_not_count() {
    // Mallory's key with Alice's subkey: what Alice's subkey signed is not Mallory's,
    // and a binding by Alice says nothing about Mallory.
    let (alice, mallory) = (alice(), key("Mallory", true, true));
    let theirs = alice.to_public_key().public_subkeys;
    let keys = changed(&mallory, |public| public.public_subkeys = theirs);
    let by_part = sign(&alice.secret_subkeys[0].key, IMAGE);
    refused(
        keys.path(),
        by_part,
        &["the subkey is not bound to its key"],
    );
}

#[test]
fn a_subkey_that_was_stolen_does_not_name_the_thief() {
    // Mallory binds Alice's subkey to her own key, to be taken for who made what Alice
    // signed. What she lacks is the subkey's word; what she has is its word for Alice.
    let (alice, mallory) = (alice(), key("Mallory", true, true));
    let theirs = alice.to_public_key().public_subkeys;
    let word = theirs[0].signatures[0].embedded_signature().unwrap();
    for embedded in [
        None,
        Some(SubpacketData::EmbeddedSignature(Box::new(word.clone()))),
    ] {
        let mut flags = KeyFlags::default();
        flags.set_sign(true);
        let said = [Some(SubpacketData::KeyFlags(flags)), embedded];
        let said = said.into_iter().flatten().collect();
        let bound = says_of_itself(&mallory, SignatureType::SubkeyBinding, said)
            .sign_subkey_binding(
                &mallory.primary_key,
                &mallory.to_public_key().primary_key,
                &Password::empty(),
                &theirs[0].key,
            )
            .unwrap();
        let keys = changed(&mallory, |public| {
            public.public_subkeys = theirs.clone();
            public.public_subkeys[0].signatures = vec![bound];
        });
        let by_part = sign(&alice.secret_subkeys[0].key, IMAGE);
        refused(keys.path(), by_part, &["the subkey does not name its key"]);
    }
}

#[test]
fn a_key_that_never_signed_itself_does_not_count() {
    let (alice, mallory) = (alice(), key("Mallory", true, true));
    // Mallory's user ID on Alice's key: it is not Alice who says so.
    let users = mallory.to_public_key().details.users;
    let keys = changed(&alice, |public| public.details.users = users);
    refused(
        keys.path(),
        sign(&alice.primary_key, IMAGE),
        &["the key has not signed itself"],
    );
}

#[test]
fn one_bad_signature_spoils_the_good_ones() {
    let (alice, bob) = (alice(), key("Bob", true, true));
    let keys = keyring(&[&alice, &bob]);
    let binary = |by: &SignedSecretKey, bytes: &[u8]| {
        let made = DetachedSignature::sign_binary_data(
            thread_rng(),
            &by.primary_key,
            &Password::empty(),
            HashAlgorithm::Sha256,
            bytes,
        );
        pgp::ser::Serialize::to_bytes(&made.unwrap()).unwrap()
    };
    let mut image = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut image, IMAGE).unwrap();
    let ring = Keyring::read(keys.path()).unwrap();
    let verify = |bytes: &[u8]| ring.verify("app", bytes, &image, SystemTime::now(), &NEVER);
    let (good, bad) = (binary(&alice, IMAGE), binary(&bob, b"x"));
    assert!(verify(&[good.clone(), binary(&bob, IMAGE)].concat()).is_ok());
    let unknown = binary(&key("Dave", true, true), IMAGE);
    assert!(
        verify(&[unknown, good.clone()].concat()).is_ok(),
        "an unknown one says nothing"
    );
    for both in [[good.clone(), bad.clone()], [bad, good.clone()]] {
        let error = verify(&both.concat()).unwrap_err();
        assert!(matches!(error, SignatureError::Bad { .. }), "{error}");
    }
    assert!(verify(&good.repeat(17)).is_err(), "too many");
}

#[test]
fn a_key_is_trusted_for_its_names_only() {
    let (alice, bob) = (alice(), key("Bob", true, true));
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, key: &SignedSecretKey| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, armored(&key.to_public_key())).unwrap();
    };
    put("prefix.d/example.com/app/alice", &alice);
    put("root.d/bob", &bob);
    fs::write(dir.path().join(".hidden"), "not a key").unwrap();
    let ring = Keyring::read(dir.path()).unwrap();
    let mut image = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut image, IMAGE).unwrap();
    for (name, trusted) in [
        ("example.com/app", true),
        ("example.com/app/part", true),
        ("example.com/apple", false),
        ("example.com", false),
        ("other.org/example.com/app", false),
    ] {
        let verify = |by: &SignedSecretKey| {
            let signature = sign(&by.primary_key, IMAGE);
            ring.verify(
                name,
                signature.as_bytes(),
                &image,
                SystemTime::now(),
                &NEVER,
            )
        };
        assert_eq!(verify(&alice).is_ok(), trusted, "{name}");
        assert!(verify(&bob).is_ok(), "{name}");
    }
}

#[test]
fn a_keyring_has_keys_and_nothing_else() {
    let (alice, bob) = (alice(), key("Bob", true, true));
    let read = |file: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), file).unwrap();
        Keyring::read(dir.path())
    };
    let two = armored(&alice.to_public_key()) + &armored(&bob.to_public_key());
    let ring = read(two.as_bytes()).unwrap();
    let mut image = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut image, IMAGE).unwrap();
    for by in [&alice, &bob] {
        let signature = sign(&by.primary_key, IMAGE);
        ring.verify(
            "app",
            signature.as_bytes(),
            &image,
            SystemTime::now(),
            &NEVER,
        )
        .unwrap();
    }
    let half = &two.as_bytes()[..two.len() - 200];
    for file in [
        b"".as_slice(),
        b"not a key",
        half,
        &sign(&alice.primary_key, IMAGE).into_bytes(),
    ] {
        assert!(read(file).is_err());
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        Keyring::read(empty.path()),
        Err(SignatureError::NoKeys(_))
    ));
    assert!(matches!(
        Keyring::read(&empty.path().join("gone")),
        Err(SignatureError::Read { .. })
    ));
}

#[test]
fn what_is_verified_in_a_directory_is_a_copy() {
    let alice = alice();
    let keys = keyring(&[&alice]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app-1-linux-amd64.aci");
    fs::write(&path, IMAGE).unwrap();
    fs::write(
        dir.path().join("app-1-linux-amd64.aci.asc"),
        sign(&alice.primary_key, IMAGE),
    )
    .unwrap();
    let finder = Finder::new(Method::Local(dir.path().to_owned())).trusting(keys.path(), true);
    let mut fetched = finder.fetched("app:1,os=linux,arch=amd64").unwrap();
    fs::write(&path, b"exchanged afterwards!").unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut fetched.file, &mut bytes).unwrap();
    assert_eq!(bytes, IMAGE);
}

#[test]
fn what_gpg_signed_is_accepted() {
    let home = tempfile::tempdir().unwrap();
    let gpg = |args: &[&str]| {
        Command::new("gpg")
            .env("GNUPGHOME", home.path())
            .args([
                "--batch",
                "--quiet",
                "--no-tty",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
            ])
            .args(args)
            .output()
    };
    if gpg(&["--version"]).is_err() {
        println!("SKIPPED: needs gpg");
        return;
    }
    let image = home.path().join("image");
    fs::write(&image, IMAGE).unwrap();
    for (user, algorithm) in [
        ("rsa@example.com", "rsa2048"),
        ("ed@example.com", "ed25519"),
    ] {
        let made = gpg(&["--quick-generate-key", user, algorithm, "sign", "never"]).unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let keys = tempfile::tempdir().unwrap();
        fs::write(
            keys.path().join("key"),
            gpg(&["--armor", "--export", user]).unwrap().stdout,
        )
        .unwrap();
        let path = image.to_str().unwrap();
        let signed = gpg(&[
            "--armor",
            "--local-user",
            user,
            "--output",
            "-",
            "--detach-sign",
            path,
        ]);
        let signature = signed.unwrap().stdout;
        let ring = Keyring::read(keys.path()).unwrap();
        let mut file = fs::File::open(&image).unwrap();
        let signer = ring
            .verify("app", &signature, &file, SystemTime::now(), &NEVER)
            .unwrap();
        assert_eq!(signer.user.as_deref(), Some(user));
        file = tempfile::tempfile().unwrap();
        let bad = ring.verify("app", &signature, &file, SystemTime::now(), &NEVER);
        assert!(matches!(bad, Err(SignatureError::Bad { .. })));
    }
    // The agent that gpg started serves this directory only; it ends with it.
    let _ = Command::new("gpgconf")
        .env("GNUPGHOME", home.path())
        .args(["--kill", "all"])
        .output();
}
