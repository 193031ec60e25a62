//! The arguments of `ssefs key`. Key material and plaintext have no place in them: they come and
//! go by file, descriptor or standard streams.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `ssefs key`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct KeyCommandArgs {
    /// Print JSON, with the names that AWS KMS uses
    #[arg(long, global = true)]
    pub json: bool,

    /// What happens when the audit log cannot be written: the request is refused, or done all
    /// the same
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "required")]
    pub audit: AuditChoice,

    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// Whether every request must be in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuditChoice {
    /// Refused without its record
    Required,
    /// Done without one if need be
    BestEffort,
}

/// The commands over customer master keys. KEY is a key id or 'alias/NAME'.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key; makes the keystore too where there is none
    Create(CreateArgs),
    /// List the keys
    List,
    /// Show a key
    Describe(OneKeyArgs),
    /// Change the description of a key
    UpdateDescription(UpdateDescriptionArgs),
    /// Let a disabled key be used again
    Enable(OneKeyArgs),
    /// Let a key not be used until it is enabled; its files cannot be opened meanwhile
    Disable(OneKeyArgs),
    /// Give a key a new version of its material now; older versions go on decrypting
    Rotate(OneKeyArgs),
    /// Show how a key rotates and when it did, or change how it rotates
    Rotation(RotationArgs),
    /// Delete a key after a number of days, in which that can be cancelled
    ScheduleDeletion(ScheduleDeletionArgs),
    /// Keep a key that was going to be deleted; it is disabled then
    CancelDeletion(OneKeyArgs),
    /// Names of keys
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Who may do what with a key
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Rights of single users or groups to use a key, beside its policy
    #[command(subcommand)]
    Grant(GrantCommand),
    /// Give a key that was made with '--origin external' its material
    Import(ImportArgs),
    /// Show when a key was last used, by whom and for what, as the audit log has it
    LastUsed(OneKeyArgs),
    /// Encrypt up to 4096 bytes under a key
    Encrypt(EncryptArgs),
    /// Decrypt what 'encrypt', 'generate-data-key' or 're-encrypt' made
    Decrypt(DecryptArgs),
    /// Make a data key: in plain, to encrypt with, and encrypted, to keep
    GenerateDataKey(GenerateDataKeyArgs),
    /// Encrypt under another key what is encrypted under one, without showing it
    ReEncrypt(ReEncryptArgs),
}

/// A command about one key.
#[derive(Debug, Args)]
pub struct OneKeyArgs {
    /// Key id, or alias/NAME
    #[arg(value_name = "KEY")]
    pub key: String,
}

/// `ssefs key create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// A name for the key, such as alias/finance
    #[arg(long, value_name = "alias/NAME")]
    pub alias: Option<String>,

    /// What the key is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,

    /// Days after which the key gets new material by itself, 90 to 2560
    #[arg(long, value_name = "N")]
    pub rotation_days: Option<u32>,

    /// File with the key policy; '-' is standard input. Without one, the owner of the keystore
    /// may do all, and nobody else anything
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Where the material comes from: made here, or to be imported
    #[arg(long, value_enum, default_value = "local")]
    pub origin: OriginName,

    /// Take a policy under which you could not put another one
    #[arg(long)]
    pub force: bool,

    /// Ask for a passphrase that shall protect the keystore, where there is none yet
    #[arg(long)]
    pub passphrase: bool,
}

/// Where key material comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OriginName {
    /// Made by ssefs
    Local,
    /// Brought with 'ssefs key import'
    External,
}

/// `ssefs key update-description`.
#[derive(Debug, Args)]
pub struct UpdateDescriptionArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    /// The new one
    #[arg(value_name = "TEXT")]
    pub description: String,
}

/// `ssefs key rotation`.
#[derive(Debug, Args)]
pub struct RotationArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    /// Rotate every so many days, 90 to 2560 (AWS uses 365)
    #[arg(long, value_name = "N", conflicts_with = "off")]
    pub days: Option<u32>,

    /// Rotate no more by itself
    #[arg(long)]
    pub off: bool,
}

/// `ssefs key schedule-deletion`.
#[derive(Debug, Args)]
pub struct ScheduleDeletionArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    /// Days until the key is gone, 7 to 30
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub days: u32,

    /// Also where files still need the key; they are lost with it
    #[arg(long)]
    pub force: bool,

    /// Backing directory to look through for files that need the key, beside the volumes that
    /// are known; may be given several times
    #[arg(long = "volume", value_name = "BACKING")]
    pub volumes: Vec<PathBuf>,
}

/// `ssefs key alias`.
#[derive(Debug, Subcommand)]
pub enum AliasCommand {
    /// Give a key a name
    Create(AliasKeyArgs),
    /// Let a name stand for another key; files go on using the key that they were made with
    Move(AliasKeyArgs),
    /// Remove a name; the key stays
    Delete(AliasArgs),
    /// List the names, of one key or of all
    List(AliasListArgs),
}

/// An alias and a key.
#[derive(Debug, Args)]
pub struct AliasKeyArgs {
    #[command(flatten)]
    pub alias: AliasArgs,

    /// Key id
    #[arg(value_name = "KEY-ID")]
    pub key: String,
}

/// An alias.
#[derive(Debug, Args)]
pub struct AliasArgs {
    /// The name, such as alias/finance
    #[arg(value_name = "alias/NAME")]
    pub alias: String,
}

/// `ssefs key alias list`.
#[derive(Debug, Args)]
pub struct AliasListArgs {
    /// Key id; without one, the names of all keys
    #[arg(value_name = "KEY-ID")]
    pub key: Option<String>,
}

/// `ssefs key policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Print the policy
    Get(OneKeyArgs),
    /// Replace the policy
    Put(PolicyPutArgs),
    /// Say who may do what; with '--user' and '--action', whether one request is allowed and why
    Simulate(SimulateArgs),
}

/// `ssefs key policy put`.
#[derive(Debug, Args)]
pub struct PolicyPutArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    /// File with the policy; '-' is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Also a policy under which you could not put another one
    #[arg(long)]
    pub force: bool,
}

/// `ssefs key policy simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    /// User who asks, by name or number; with the groups that the system gives the user
    #[arg(long, value_name = "NAME", requires = "action")]
    pub user: Option<String>,

    /// Group of the user, by name or number, instead of those; may be given several times
    #[arg(long = "group", value_name = "NAME", requires = "user")]
    pub groups: Vec<String>,

    /// What is asked for, such as Decrypt
    #[arg(long, value_name = "ACTION", requires = "user")]
    pub action: Option<String>,

    #[command(flatten)]
    pub context: ContextArgs,

    /// Try the policy in this file instead of the key's; '-' is standard input
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// `ssefs key grant`.
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// Let a user or group use a key
    Create(GrantCreateArgs),
    /// List the grants of a key
    List(OneKeyArgs),
    /// Take a grant back
    Revoke(GrantRevokeArgs),
}

/// `ssefs key grant create`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("grantee").required(true).args(["user", "group"]))]
pub struct GrantCreateArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    /// Who may use the key, by name or number
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// Which group may use the key, by name or number
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    /// What for: Decrypt, DescribeKey, Encrypt, GenerateDataKey, ReEncryptFrom or ReEncryptTo;
    /// several are separated by commas
    #[arg(long, value_name = "ACTION", required = true, value_delimiter = ',')]
    pub operations: Vec<String>,

    /// A name for the grant
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,

    /// Only where the encryption context has this pair; may be given several times
    #[arg(long = "context-subset", value_name = "NAME=VALUE", conflicts_with = "context_equals")]
    pub context_subset: Vec<String>,

    /// Only where the encryption context has this pair and no other than those given; files
    /// have further pairs, so this is for 'encrypt' and its like
    #[arg(long = "context-equals", value_name = "NAME=VALUE")]
    pub context_equals: Vec<String>,
}

/// `ssefs key grant revoke`.
#[derive(Debug, Args)]
pub struct GrantRevokeArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    /// The grant's id, as 'grant list' shows it
    #[arg(value_name = "GRANT-ID")]
    pub grant: String,
}

/// `ssefs key import`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("material").required(true).args(["file", "key_fd"]))]
pub struct ImportArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    /// File with the material: 32 bytes, or 64 hexadecimal digits; '-' is standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Number of an open file descriptor to read it from
    #[arg(long, value_name = "N")]
    pub key_fd: Option<i32>,
}

/// An encryption context.
#[derive(Debug, Args)]
pub struct ContextArgs {
    /// Pair of the encryption context, not secret; decrypting needs the same pairs. May be
    /// given several times
    #[arg(long = "context", value_name = "NAME=VALUE")]
    pub pairs: Vec<String>,
}

/// Where bytes come from and go to.
#[derive(Debug, Args)]
pub struct StreamArgs {
    /// File to read; '-', or none, is standard input
    #[arg(value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// File to write, readable by you only; '-', or none, is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// The ciphertext is base64 instead of bytes
    #[arg(long)]
    pub base64: bool,
}

/// `ssefs key encrypt`.
#[derive(Debug, Args)]
pub struct EncryptArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    #[command(flatten)]
    pub context: ContextArgs,

    #[command(flatten)]
    pub streams: StreamArgs,
}

/// `ssefs key decrypt`.
#[derive(Debug, Args)]
pub struct DecryptArgs {
    /// The key that it must be encrypted under; the ciphertext names it by itself
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,

    #[command(flatten)]
    pub context: ContextArgs,

    #[command(flatten)]
    pub streams: StreamArgs,
}

/// `ssefs key generate-data-key`.
#[derive(Debug, Args)]
pub struct GenerateDataKeyArgs {
    #[command(flatten)]
    pub key: OneKeyArgs,

    #[command(flatten)]
    pub context: ContextArgs,

    /// File for the data key in plain, 32 bytes, readable by you only; '-' is standard output
    #[arg(long, value_name = "FILE", required_unless_present_any = ["json", "without_plaintext"])]
    pub plaintext: Option<PathBuf>,

    /// File for the encrypted data key; '-' is standard output
    #[arg(long, value_name = "FILE", required_unless_present = "json")]
    pub ciphertext: Option<PathBuf>,

    /// Give out only the encrypted data key
    #[arg(long, conflicts_with = "plaintext")]
    pub without_plaintext: bool,

    /// Write both as base64 instead of bytes
    #[arg(long)]
    pub base64: bool,

    /// Print the data key in plain also on a terminal
    #[arg(long)]
    pub force: bool,
}

/// `ssefs key re-encrypt`.
#[derive(Debug, Args)]
pub struct ReEncryptArgs {
    /// The key that it shall be encrypted under
    #[arg(long, value_name = "KEY")]
    pub to: String,

    /// The key that it must be encrypted under now; the ciphertext names it by itself
    #[arg(long, value_name = "KEY")]
    pub from: Option<String>,

    /// Pair of the encryption context that it has; may be given several times
    #[arg(long = "from-context", value_name = "NAME=VALUE")]
    pub from_context: Vec<String>,

    /// Pair of the encryption context that it shall have; may be given several times
    #[arg(long = "to-context", value_name = "NAME=VALUE")]
    pub to_context: Vec<String>,

    #[command(flatten)]
    pub streams: StreamArgs,
}

const EXAMPLES: &str = "\
KEY is a key id or 'alias/NAME'. 'ssefs key COMMAND --help' says more of each command.

Examples:
  ssefs key create --alias alias/finance --rotation-days 365
  ssefs key list
  ssefs key policy put alias/finance policy.json
  ssefs key policy simulate alias/finance --user alice --action Decrypt
  ssefs key grant create alias/finance --user bob --operations Decrypt,DescribeKey
  ssefs key encrypt alias/finance --context dept=hr note.txt -o note.enc
  ssefs key decrypt --context dept=hr note.enc
  ssefs mount --mode kms --key-id alias/finance ~/backing ~/private";
