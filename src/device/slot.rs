//! What the host writes and reads must be as a program's slot has it. Used by all devices.

use super::DeviceError;
use crate::graph::{HostView, TensorType};

/// Refuses data of another type or size than the slot `name`, and integers that are not below `below`: they are looked up in a table
/// of so many rows.
pub(super) fn check(
    name: &str,
    ty: &TensorType,
    below: Option<i32>,
    data: HostView,
) -> Result<(), DeviceError> {
    if data.dtype() != ty.dtype || data.elements() != ty.elements() {
        return Err(DeviceError::SlotType {
            name: name.into(),
            expected: ty.dtype,
            expected_elements: ty.elements(),
            found: data.dtype(),
            elements: data.elements(),
        });
    }
    let (HostView::I32(values), Some(below)) = (data, below) else { return Ok(()) };
    match values.iter().position(|value| !(0..below).contains(value)) {
        None => Ok(()),
        Some(index) => {
            Err(DeviceError::OutOfRange { name: name.into(), index, found: values[index], last: below - 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DType;

    #[test]
    fn other_types_sizes_and_rows_are_refused() {
        let tokens = TensorType { dtype: DType::I32, shape: vec![3] };
        let check = |data| check("tokens", &tokens, Some(10), data);
        assert_eq!(check(HostView::I32(&[0, 9, 5])), Ok(()));
        let outside = check(HostView::I32(&[0, 1, -1])).unwrap_err();
        assert_eq!(outside.to_string(), "'tokens'[2] is -1; it must be 0 to 9");
        assert!(check(HostView::I32(&[10, 0, 0])).is_err());
        let short = check(HostView::I32(&[0; 2])).unwrap_err();
        assert_eq!(short.to_string(), "'tokens' has 3 elements of i32, but 2 of i32 were given");
        assert!(matches!(check(HostView::F32(&[0.0; 3])), Err(DeviceError::SlotType { .. })));
    }
}
