//! The model as data: tensors, operations, a builder with shape inference, passes. Knows no other room.
