//! Whether the program of another process decides, seen from outside.

use super::{Error, Result};
use aya::maps::{Array, Map, MapData, MapInfo};
use router_common::layout::Config;

/// The map `CONFIG` of a running router.
pub struct Switch(Array<MapData, Config>);

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Switch")
    }
}

impl Switch {
    /// Finds it among maps, by their ids. None where there is none: the router has no fast path.
    pub fn among(ids: impl IntoIterator<Item = u32>) -> Result<Option<Self>> {
        let failed = |error| Error::from_map("open the map CONFIG of the router", error);
        for id in ids {
            // Maps come and go.
            let Ok(info) = MapInfo::from_id(id) else { continue };
            if info.name_as_str() == Some("CONFIG") {
                let map = MapData::from_id(id).map_err(failed)?;
                return Ok(Some(Switch(Array::try_from(Map::Array(map)).map_err(failed)?)));
            }
        }
        Ok(None)
    }

    /// Whether packets are decided now, as far as the lease goes.
    pub fn is_on(&self) -> Result<bool> {
        let config = self.0.get(&0, 0).map_err(|error| Error::from_map("read the map CONFIG of the router", error))?;
        Ok(config.active != 0)
    }
}
