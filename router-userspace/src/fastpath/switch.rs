//! The program's switch, away from the rest of it: seen from another process, turned off by another thread.

use super::{Error, Result};
use aya::maps::{Array, IterableMap, Map, MapData, MapInfo};
use router_common::layout::Config;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The maps of a running router by which its program decides or does not: `CONFIG` and `LEASE`.
pub struct Switch {
    config: Array<MapData, Config>,
    lease: Array<MapData, u64>,
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Switch")
    }
}

impl Switch {
    /// Finds them among maps, by their ids. None where they are not there: the router has no fast path.
    pub fn among(ids: impl IntoIterator<Item = u32>) -> Result<Option<Self>> {
        let failed = |error| Error::from_map("open a map of the router", error);
        let open = |id| MapData::from_id(id).map(Map::Array).map_err(failed);
        let (mut config, mut lease) = (None, None);
        for id in ids {
            // Maps come and go.
            let Ok(info) = MapInfo::from_id(id) else { continue };
            match info.name_as_str() {
                Some("CONFIG") => config = Some(Array::try_from(open(id)?).map_err(failed)?),
                Some("LEASE") => lease = Some(Array::try_from(open(id)?).map_err(failed)?),
                _ => {}
            }
        }
        Ok(config.zip(lease).map(|(config, lease)| Switch { config, lease }))
    }

    /// Whether packets are decided now.
    pub fn is_on(&self) -> Result<bool> {
        let failed = |error| Error::from_map("read a map of the router", error);
        let now = super::tables::now()?;
        let lease = Duration::from_nanos(self.lease.get(&0, 0).map_err(failed)?);
        Ok(lease >= now && self.config.get(&0, 0).map_err(failed)?.active != 0)
    }
}

/// Stops the program from another thread, while its maps stay with the one that loaded it.
pub struct Stopper {
    config: Array<MapData, Config>,
    /// What the map holds, whoever wrote it: a program that is running must not find another state's trees in it.
    current: Arc<Mutex<Config>>,
}

impl std::fmt::Debug for Stopper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stopper")
    }
}

impl Stopper {
    pub(super) fn new(config: &Array<MapData, Config>, current: Arc<Mutex<Config>>) -> Result<Self> {
        let fd = IterableMap::map(config).fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| Error::from_os("open the map CONFIG once more", error))?;
        let open = || Array::try_from(Map::Array(MapData::from_fd(fd)?));
        Ok(Stopper {
            config: open().map_err(|error| Error::from_map("open the map CONFIG once more", error))?,
            current,
        })
    }

    /// Every packet passes from now on, until the next generation; a program that is deciding one may still end that.
    pub fn stop(&mut self) -> Result<()> {
        let mut current = held(&self.current);
        let stopped = Config { active: 0, ..*current };
        write_config(&mut self.config, &mut current, stopped)
    }
}

/// What `CONFIG` holds. A thread that panicked left nothing half done.
pub(super) fn held(current: &Mutex<Config>) -> MutexGuard<'_, Config> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes `CONFIG`, and what is known of it.
pub(super) fn write_config(map: &mut Array<MapData, Config>, current: &mut Config, config: Config) -> Result<()> {
    map.set(0, config, 0).map_err(|error| Error::from_map("write the map CONFIG", error))?;
    *current = config;
    Ok(())
}
