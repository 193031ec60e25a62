//! The directory `.ssefs`: FORMAT.md, "The volume descriptor" and "The epoch record".

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::envelope::Envelope;
use super::keys::hex;
use super::primitives::{Key, hkdf, hmac};

/// A descriptor with the fields that are needed to read.
pub struct Descriptor {
    pub volume: [u8; 16],
    pub slots: Vec<Slot>,
}

pub struct Slot {
    pub envelope: Envelope,
    pub supplied: Value,
}

impl Descriptor {
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let json: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if json["format_version"] != 1 {
            return Err("a version that is not known".into());
        }
        let slots = json["key_slots"].as_array().ok_or("no key slots")?;
        let slots = slots.iter().map(|slot| {
            let envelope = Envelope::decode(&hex(&slot["envelope"]))?;
            Ok(Slot { envelope, supplied: slot["supplied"].clone() })
        });
        let volume = parse_uuid(json["volume_id"].as_str().ok_or("no volume id")?);
        Ok(Self { volume, slots: slots.collect::<Result<_, String>>()? })
    }

    pub fn write(&self) -> Vec<u8> {
        let slots: Vec<Value> = self
            .slots
            .iter()
            .map(|slot| {
                let mut json = json!({ "envelope": HEXLOWER.encode(&slot.envelope.encode()) });
                if !slot.supplied.is_null() {
                    json["supplied"] = slot.supplied.clone();
                }
                json
            })
            .collect();
        let json = json!({
            "format_version": 1,
            "volume_id": format_uuid(&self.volume),
            "created": 1_700_000_000,
            "key_slots": slots,
        });
        serde_json::to_vec(&json).unwrap()
    }
}

/// The epoch record: the last epoch and those that did not end cleanly.
pub fn read_epochs(
    text: &[u8],
    volume: &[u8; 16],
    volume_key: &Key,
) -> Result<(u64, Vec<u64>), String> {
    let json: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let last = json["last"].as_u64().ok_or("no last epoch")?;
    let unclean: Option<Vec<u64>> =
        json["unclean"].as_array().ok_or("no list")?.iter().map(Value::as_u64).collect();
    let unclean = unclean.ok_or("an epoch is a number")?;
    if json["mac"] != epochs_mac(last, &unclean, volume, volume_key) {
        return Err("the MAC of the epoch record does not match".into());
    }
    Ok((last, unclean))
}

pub fn write_epochs(last: u64, unclean: &[u64], volume: &[u8; 16], volume_key: &Key) -> Vec<u8> {
    let mac = epochs_mac(last, unclean, volume, volume_key);
    serde_json::to_vec(&json!({ "last": last, "unclean": unclean, "mac": mac })).unwrap()
}

fn epochs_mac(last: u64, unclean: &[u64], volume: &[u8; 16], volume_key: &Key) -> String {
    let mut message = b"ssefs epochs\0".to_vec();
    message.extend(volume);
    message.extend(last.to_le_bytes());
    message.extend((unclean.len() as u64).to_le_bytes());
    message.extend(unclean.iter().flat_map(|epoch| epoch.to_le_bytes()));
    HEXLOWER.encode(&hmac(&hkdf(volume_key, b"ssefs/v1/epochs"), &message))
}

/// The bytes of a UUID, in the order in which they are written.
pub fn parse_uuid(text: &str) -> [u8; 16] {
    HEXLOWER.decode(text.replace('-', "").as_bytes()).unwrap().try_into().unwrap()
}

pub fn format_uuid(bytes: &[u8; 16]) -> String {
    let hex = HEXLOWER.encode(bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
