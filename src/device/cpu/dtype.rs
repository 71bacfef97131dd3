//! How a device is to store weights: as parameters and options say, or as suits it.

use std::env;
use std::fmt;
use std::str::FromStr;

use super::kernels::Isa;
use super::kernels::product::Precision;
use crate::device::DeviceError;

/// Forces the kernels of one instruction set, for tests and comparisons: `portable`, `avx2`, `avx512`, `avx512bf16`, `amx`.
const KERNELS_VARIABLE: &str = "PI0_CPU_KERNELS";

/// The parameter and option `dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// What the device multiplies fast.
    Auto,
    Is(Precision),
}

impl Dtype {
    /// What weights are stored as on the device of this name.
    ///
    /// # Errors
    /// The environment asks for kernels that this machine cannot run.
    pub fn precision_on(self, device: &str) -> Result<Precision, DeviceError> {
        match self {
            // Every GPU that is new enough has products of bf16.
            Self::Auto if device.split(':').next() == Some("cuda") => Ok(Precision::Bf16),
            Self::Auto => Ok(chosen_kernels()?.preferred()),
            Self::Is(precision) => Ok(precision),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Is(precision) => precision.fmt(f),
        }
    }
}

impl FromStr for Dtype {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        [Self::Auto, Self::Is(Precision::F32), Self::Is(Precision::Bf16)]
            .into_iter()
            .find(|dtype| dtype.to_string() == name)
            .ok_or_else(|| DeviceError::Precision(name.into()))
    }
}

/// The fastest kernels of this machine, or those that the environment asks for.
///
/// # Errors
/// The environment asks for kernels that this machine cannot run.
pub(super) fn chosen_kernels() -> Result<Isa, DeviceError> {
    let available = Isa::available();
    // An empty one is none, as scripts unset variables.
    let asked = env::var_os(KERNELS_VARIABLE).filter(|name| !name.is_empty());
    let Some(name) = asked.map(|name| name.to_string_lossy().into_owned()) else { return Ok(Isa::fastest()) };
    available.iter().find(|isa| isa.to_string() == name).copied().ok_or_else(|| {
        let available = available.iter().map(Isa::to_string).collect::<Vec<_>>().join(", ");
        DeviceError::Kernels { variable: KERNELS_VARIABLE, found: name, available }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dtype_is_read_as_it_is_written() {
        for name in ["auto", "f32", "bf16"] {
            assert_eq!(name.parse::<Dtype>().unwrap().to_string(), name);
        }
        let error = "fp16".parse::<Dtype>().unwrap_err().to_string();
        assert_eq!(error, "there is no dtype 'fp16': auto, bf16 or f32");
    }

    #[test]
    fn the_reference_is_what_it_says_whatever_the_machine() {
        assert_eq!(Dtype::Is(Precision::F32).precision_on("cpu").unwrap(), Precision::F32);
    }
}
