//! Which files a process can reach: what Landlock enforces for this process and all it will ever start. What it does
//! not know (attributes: `stat`, times) is left to the process's own root, where it has one.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope, make_bitflags,
};
use std::{io, path::Path};

/// Everything that the newest kernel known here can deny; older ones deny what they can.
const ABI_NEWEST: ABI = ABI::V9;
/// What guests' files and directories are for. No devices, sockets or pipes are made there, and nothing is executed.
const VOLUMES: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSym | Refer
});
/// Compiled code is mapped, which takes no more than reading.
const CODE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// A runner's files: `code/` to read, `volumes/` to read and write. Says which Landlock ABI enforces that, 0 for none.
pub(super) fn runner(root: &Path) -> io::Result<u8> {
    let mut rules = denying_everything().map_err(io::Error::other)?;
    for (directory, access) in [("code", CODE), ("volumes", VOLUMES)] {
        // One that is not there yet is never reached.
        if let Ok(directory) = PathFd::new(root.join(directory)) {
            rules = rules.add_rule(PathBeneath::new(directory, access)).map_err(io::Error::other)?;
        }
    }
    enforce(rules)
}

/// No file at all, but for those that are open.
pub(super) fn nothing() -> io::Result<u8> {
    enforce(denying_everything().map_err(io::Error::other)?)
}

fn denying_everything() -> Result<RulesetCreated, landlock::RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(ABI_NEWEST))?
        .handle_access(AccessNet::from_all(ABI_NEWEST))?
        .scope(Scope::from_all(ABI_NEWEST))?
        .create()
}

fn enforce(rules: RulesetCreated) -> io::Result<u8> {
    let status = rules.restrict_self().map_err(io::Error::other)?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as u8,
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    })
}
