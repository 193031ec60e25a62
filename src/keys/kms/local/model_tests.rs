//! Random histories of a keystore that two processes use in turn, against a model: keys by the
//! rules of AWS KMS, aliases as a map, ciphertexts as what was put into them.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::proptest;
use proptest::test_runner::Config;

use super::tests::{Scratch, code, nothing};
use super::{CreateKey, LocalKms};
use crate::crypto::Secret;
use crate::format::KeyId;
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::error::{ErrorCode, KmsError};
use crate::keys::kms::policy::Policy;
use crate::keys::kms::record::CmkRecord;
use crate::keys::kms::rules_tests::{Asked, DAY, Rules, actions_on_keys, days};
use crate::keys::kms::state::Origin;

/// One step of a history. Keys and ciphertexts are counted modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    Create { external: bool, alias: Option<u8> },
    Ask { key: usize, action: Action, days: u32, material: u8, alias: u8 },
    Decrypt { blob: usize },
    ReEncrypt { blob: usize, to: usize },
    Pass { hours: u64 },
    Maintain,
}

struct Model {
    keys: Vec<(KeyId, Rules, Vec<u8>)>,
    aliases: BTreeMap<String, KeyId>,
    /// The key, the version, the plaintext and the blob.
    blobs: Vec<(usize, u32, u8, Vec<u8>)>,
}

fn step() -> impl Strategy<Value = Step> {
    let action = proptest::sample::select(actions_on_keys().collect::<Vec<_>>());
    let ask = (any::<usize>(), action, days(), 0..4_u8, 0..4_u8).prop_map(
        |(key, action, days, material, alias)| Step::Ask { key, action, days, material, alias },
    );
    prop_oneof![
        2 => (any::<bool>(), proptest::option::of(0..4_u8))
            .prop_map(|(external, alias)| Step::Create { external, alias }),
        24 => ask,
        4 => any::<usize>().prop_map(|blob| Step::Decrypt { blob }),
        2 => (any::<usize>(), any::<usize>())
            .prop_map(|(blob, to)| Step::ReEncrypt { blob, to }),
        3 => (0..24 * 60_u64).prop_map(|hours| Step::Pass { hours }),
        2 => Just(Step::Maintain),
    ]
}

fn alias(number: u8) -> String {
    format!("alias/{number}")
}

fn material(byte: u8) -> Secret {
    Secret::copy_from(&[byte; 32])
}

impl Model {
    fn create(&mut self, kms: &LocalKms, own: &Identity, external: bool, alias: Option<String>) {
        let origin = external.then_some(Origin::External);
        let request = CreateKey { alias: alias.as_deref(), origin, ..CreateKey::default() };
        let made = kms.create_key(own, request);
        if alias.as_ref().is_some_and(|alias| self.aliases.contains_key(alias)) {
            assert_eq!(code(made), Some(ErrorCode::AlreadyExists));
            return;
        }
        let key_id = made.unwrap().key_id;
        self.aliases.extend(alias.map(|alias| (alias, key_id.clone())));
        self.keys.push((key_id, Rules::new(external), Vec::new()));
    }

    /// Does one operation on a key, and expects what the rules say.
    fn ask(
        &mut self,
        kms: &LocalKms,
        own: &Identity,
        now: u64,
        at: usize,
        (action, days, byte, alias): (Action, u32, u8, String),
    ) {
        let (key_id, rules, known) = &mut self.keys[at];
        let (key, gone) = (key_id.0.clone(), rules.is_gone(now));
        let taken = self.aliases.get(&alias).cloned();
        let before = rules.clone();
        let mut expected =
            rules.ask(Asked { action, days, known: known.contains(&byte) }, now).err();
        let got = match action {
            Action::CreateAlias => {
                if expected.is_none() && taken.is_some() {
                    expected = Some(ErrorCode::AlreadyExists);
                }
                code(kms.create_alias(own, &alias, &key))
            }
            Action::UpdateAlias => {
                if expected.is_none() && taken.is_none() {
                    expected = Some(ErrorCode::NotFound);
                }
                code(kms.update_alias(own, &alias, &key))
            }
            Action::DeleteAlias => {
                expected = taken.is_none().then_some(ErrorCode::NotFound);
                code(kms.delete_alias(own, &alias))
            }
            Action::Encrypt => {
                let sealed = kms.encrypt(own, &key, &[byte], &nothing());
                if let Ok(sealed) = &sealed {
                    assert_eq!(sealed.key_version, rules.versions);
                    self.blobs.push((at, sealed.key_version, byte, sealed.blob.clone()));
                }
                code(sealed)
            }
            Action::ImportKeyMaterial => {
                let imported = kms.import_key_material(own, &key, material(byte));
                if let Ok(version) = &imported {
                    if rules.versions > before.versions {
                        known.push(byte);
                    }
                    assert_eq!(known[usize::try_from(*version).unwrap() - 1], byte);
                }
                code(imported)
            }
            other => code(plain(kms, own, &key, other, days)),
        };
        assert_eq!(got, expected, "{} of {before:?}, gone: {gone}", action.name());
        match (expected, action) {
            (None, Action::CreateAlias | Action::UpdateAlias) => {
                self.aliases.insert(alias, KeyId(key));
            }
            (None, Action::DeleteAlias) => drop(self.aliases.remove(&alias)),
            (None, Action::EnableKey) => self.keys[at].1.rotate_if_due(now),
            _ => {}
        }
    }

    fn decrypt(&self, kms: &LocalKms, own: &Identity, now: u64, blob: usize) {
        let (at, version, byte, blob) = &self.blobs[blob];
        let mut rules = self.keys[*at].1.clone();
        let asked = Asked { action: Action::Decrypt, days: 0, known: false };
        let expected = rules.ask(asked, now).err();
        let decrypted = kms.decrypt(own, None, blob, &nothing());
        if let Ok(decrypted) = &decrypted {
            assert_eq!(decrypted.plaintext.as_slice(), [*byte]);
            assert_eq!((&decrypted.key_id, decrypted.key_version), (&self.keys[*at].0, *version));
        }
        assert_eq!(code(decrypted), expected);
    }

    fn re_encrypt(&mut self, kms: &LocalKms, own: &Identity, now: u64, blob: usize, to: usize) {
        let (from, _, byte, blob) = self.blobs[blob].clone();
        let mut ask =
            |at: usize, action| self.keys[at].1.ask(Asked { action, days: 0, known: false }, now);
        let expected =
            ask(from, Action::ReEncryptFrom).and_then(|()| ask(to, Action::ReEncryptTo)).err();
        let target = self.keys[to].0.0.clone();
        let sealed = kms.re_encrypt(own, None, &blob, &nothing(), &target, &nothing());
        if let Ok(sealed) = &sealed {
            self.blobs.push((to, sealed.key_version, byte, sealed.blob.clone()));
        }
        assert_eq!(code(sealed), expected);
    }

    fn maintain(&mut self, kms: &LocalKms, now: u64) {
        kms.maintain(now).unwrap();
        for (key_id, rules, _) in &mut self.keys {
            if rules.is_gone(now) {
                self.aliases.retain(|_, target| target != key_id);
                assert!(!kms.keystore().contains::<CmkRecord>(&key_id.0).unwrap());
            } else {
                rules.rotate_if_due(now);
            }
        }
    }

    /// Compares everything that can be seen.
    fn compare(&self, kms: &LocalKms, own: &Identity, now: u64) {
        let there: Vec<_> = self.keys.iter().filter(|(_, rules, _)| !rules.is_gone(now)).collect();
        let listed = kms.list_keys(own).unwrap();
        assert_eq!(listed.len(), there.len());
        for (key_id, rules, _) in there {
            let shown = listed.iter().find(|shown| shown.key_id == *key_id).unwrap();
            assert_eq!((shown.key_state, shown.deletion_date), (rules.state, rules.deletion));
            assert_eq!(shown.current_key_version.unwrap_or(0), rules.versions);
            let status = kms.key_rotation_status(own, &key_id.0).unwrap();
            assert_eq!(status.rotation_period_in_days, rules.period);
            assert_eq!(status.next_rotation_date, rules.next);
            assert_eq!(status.on_demand_rotations, rules.on_demand);
        }
        let aliases = kms.list_aliases(own, None).unwrap();
        let aliases =
            aliases.into_iter().map(|one| (one.alias_name.to_string(), one.target_key_id));
        assert_eq!(aliases.collect::<BTreeMap<_, _>>(), self.aliases);
    }
}

/// Operations whose result tells nothing more.
fn plain(
    kms: &LocalKms,
    own: &Identity,
    key: &str,
    action: Action,
    days: u32,
) -> Result<(), KmsError> {
    match action {
        Action::CancelKeyDeletion => kms.cancel_key_deletion(own, key),
        Action::DescribeKey => kms.describe_key(own, key).map(drop),
        Action::DisableKey => kms.disable_key(own, key),
        Action::DisableKeyRotation => kms.disable_key_rotation(own, key),
        Action::EnableKey => kms.enable_key(own, key),
        Action::EnableKeyRotation => kms.enable_key_rotation(own, key, days),
        Action::GenerateDataKey => kms.generate_data_key(own, key, &nothing()).map(drop),
        Action::GetKeyPolicy => kms.key_policy(own, key).map(drop),
        Action::GetKeyRotationStatus => kms.key_rotation_status(own, key).map(drop),
        Action::ListGrants => kms.list_grants(own, key).map(drop),
        Action::ListKeyRotations => kms.list_key_rotations(own, key).map(drop),
        Action::PutKeyPolicy => {
            kms.put_key_policy(own, key, Policy::default_for(own.caller().uid), false)
        }
        Action::RotateKeyOnDemand => kms.rotate_key_on_demand(own, key).map(drop),
        Action::ScheduleKeyDeletion => kms.schedule_key_deletion(own, key, days).map(drop),
        Action::UpdateKeyDescription => kms.update_description(own, key, "d"),
        // What remains has no operation of its own, or one that a test of its own is for.
        _ => {
            let cmk = kms.cmk(&KeyId(key.to_owned()))?;
            kms.authorise(&cmk, own, action, &nothing())
        }
    }
}

proptest! {
    #![proptest_config(Config::with_cases(48))]
    #[test]
    fn two_processes_keep_to_the_model(
        history in vec((step(), any::<bool>()), 1..60),
    ) {
        let scratch = Scratch::new();
        let other = scratch.another();
        let own = &scratch.own;
        let mut model =
            Model { keys: Vec::new(), aliases: BTreeMap::new(), blobs: Vec::new() };
        let mut now = scratch.pass(0);
        for (step, elsewhere) in history {
            let (kms, peer) =
                if elsewhere { (&other, &scratch.kms) } else { (&scratch.kms, &other) };
            let (keys, blobs) = (model.keys.len(), model.blobs.len());
            match step {
                Step::Create { external, alias: number } => {
                    model.create(kms, own, external, number.map(alias));
                }
                Step::Ask { key, action, days, material, alias: number } if keys > 0 => {
                    let asked = (action, days, material, alias(number));
                    model.ask(kms, own, now, key % keys, asked);
                }
                Step::Decrypt { blob } if blobs > 0 => {
                    model.decrypt(kms, own, now, blob % blobs);
                }
                Step::ReEncrypt { blob, to } if blobs > 0 => {
                    model.re_encrypt(kms, own, now, blob % blobs, to % keys);
                }
                Step::Pass { hours } => now = scratch.pass(hours * DAY / 24),
                Step::Maintain => model.maintain(kms, now),
                _ => {}
            }
            model.compare(peer, own, now);
        }
        for blob in 0..model.blobs.len() {
            model.decrypt(&other, own, now, blob);
        }
    }
}
