//! Tensors: made, filled, read, freed. A part of [`Runtime`].

use std::slice;

use super::{Runtime, parse};
use crate::{DataType, Error, HostData, Layout, Tensor, TensorInfo, TensorSpec};

impl Runtime {
    /// A tensor with these contents. Tiles are formed on the host, exactly; for `Bfloat8B`, which takes bfloat16
    /// data, they are formed and rounded on the device.
    pub fn upload(&mut self, spec: &TensorSpec, data: HostData) -> Result<Tensor, Error> {
        self.guarded(|this| {
            if spec.dtype == DataType::Bfloat8B && spec.layout != Layout::Tile {
                return Err(Error::Argument("bfloat8_b exists in tiles only".into()));
            }
            let taken = if spec.dtype == DataType::Bfloat8B { DataType::Bfloat16 } else { spec.dtype };
            check_type(taken, data)?;
            let (python, functions) = (this.python, &this.functions);
            this.host.show(spec, data, |address| {
                let tensor = functions.upload.call([
                    python.integer(address),
                    python.text(spec.dtype.name()),
                    python.text(spec.layout.name()),
                    python.text(spec.memory.name()),
                ])?;
                tensor.to_integer().map(Tensor)
            })
        })
    }

    /// A tensor without contents.
    pub fn allocate(&mut self, spec: &TensorSpec) -> Result<Tensor, Error> {
        self.guarded(|this| {
            let tensor = this.functions.allocate.call([
                this.python.text(&format!("{:?}", spec.shape)),
                this.python.text(spec.dtype.name()),
                this.python.text(spec.layout.name()),
                this.python.text(spec.memory.name()),
            ])?;
            tensor.to_integer().map(Tensor)
        })
    }

    /// New contents at the tensor's address. `data` may be reused at once; the device has them after what is in the
    /// queue before. Tiles are formed on the host. Allocates nothing after the first time.
    pub fn write(&mut self, tensor: Tensor, data: HostData, queue: u8) -> Result<(), Error> {
        self.guarded(|this| {
            this.learn(tensor)?;
            let (python, functions, spec) = (this.python, &this.functions, &this.specs[&tensor]);
            check_type(spec.dtype, data)?;
            this.host.show(spec, data, |address| {
                let arguments =
                    [python.integer(tensor.0), python.integer(address), python.integer(queue.into())];
                functions.write.call(arguments).map(drop)
            })
        })
    }

    /// Contents of a tensor of f32, rows after rows, without padding. Waits until the queue has come so far.
    /// Allocates nothing after the first time.
    pub fn read(&mut self, tensor: Tensor, values: &mut [f32], queue: u8) -> Result<(), Error> {
        self.guarded(|this| {
            this.learn(tensor)?;
            let spec = &this.specs[&tensor];
            if spec.dtype != DataType::Float32 {
                return Err(Error::Argument(format!("a tensor of {} cannot be read", spec.dtype.name())));
            }
            if spec.elements()? != values.len() {
                let count = values.len();
                return Err(Error::Argument(format!(
                    "room for {count} values of a tensor of shape {:?}",
                    spec.shape
                )));
            }
            // SAFETY: any bytes are f32s; the slice is as long.
            let bytes = unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) };
            // SAFETY: `read` in `runtime.py` keeps nothing of what it is given.
            let destination = unsafe { this.python.bytes(bytes) };
            let arguments = [this.python.integer(tensor.0), destination, this.python.integer(queue.into())];
            this.functions.read.call(arguments).map(drop)
        })
    }

    /// Frees the tensor's memory now; where another handle is a view of the same memory, with the last of them.
    pub fn free(&mut self, tensor: Tensor) -> Result<(), Error> {
        self.guarded(|this| {
            this.specs.remove(&tensor);
            this.functions.free.call([this.python.integer(tensor.0)]).map(drop)
        })
    }

    pub fn spec_of(&mut self, tensor: Tensor) -> Result<TensorInfo, Error> {
        self.guarded(|this| parse(&this.functions.spec_of.call([this.python.integer(tensor.0)])?))
    }

    /// Has the tensor's description at hand afterwards.
    fn learn(&mut self, tensor: Tensor) -> Result<(), Error> {
        if !self.specs.contains_key(&tensor) {
            let info: TensorInfo = parse(&self.functions.spec_of.call([self.python.integer(tensor.0)])?)?;
            self.specs.insert(tensor, info.spec);
        }
        Ok(())
    }
}

fn check_type(expected: DataType, data: HostData) -> Result<(), Error> {
    if data.dtype() == expected {
        return Ok(());
    }
    Err(Error::Argument(format!("values of {} where {} is expected", data.dtype().name(), expected.name())))
}
