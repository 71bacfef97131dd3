//! Tensors: made, filled, read, freed.

use tt_metal_sys::{DataType, Error, HostData, Layout, Memory, Runtime};

use crate::{raised, spec, tiles};

pub fn of_every_kind(runtime: &mut Runtime) {
    let (bfloat16, float32) = ([0x3f80; 3 * 33 * 50], [1.0; 3 * 33 * 50]);
    let (uint32, int32) = ([7; 3 * 33 * 50], [-7; 3 * 33 * 50]);
    for memory in [Memory::Dram, Memory::L1] {
        for layout in [Layout::Tile, Layout::RowMajor] {
            for (dtype, data) in [
                (DataType::Bfloat16, HostData::Bfloat16(&bfloat16)),
                (DataType::Float32, HostData::Float32(&float32)),
                (DataType::Uint32, HostData::Uint32(&uint32)),
                (DataType::Int32, HostData::Int32(&int32)),
                (DataType::Bfloat8B, HostData::Bfloat16(&bfloat16)),
            ] {
                let spec = spec(&[3, 33, 50], dtype, layout, memory);
                if dtype == DataType::Bfloat8B && layout == Layout::RowMajor {
                    assert!(matches!(runtime.upload(&spec, data), Err(Error::Argument(_))));
                    assert!(raised(runtime.allocate(&spec)).contains("Only TILE layout"));
                    continue;
                }
                let uploaded = runtime.upload(&spec, data).unwrap();
                let allocated = runtime.allocate(&spec).unwrap();
                let (one, other) = (runtime.spec_of(uploaded).unwrap(), runtime.spec_of(allocated).unwrap());
                assert_eq!(one.spec, spec);
                assert_eq!(other.spec, spec);
                assert_ne!(one.address, other.address);
                runtime.free(uploaded).unwrap();
                runtime.free(allocated).unwrap();
            }
        }
    }
    for shape in [&[1][..], &[50], &[1, 1, 1, 1, 1, 1, 2, 3]] {
        let spec = tiles(shape, DataType::Bfloat16);
        let tensor = runtime.upload(&spec, HostData::Bfloat16(&vec![0; spec.elements().unwrap()])).unwrap();
        assert_eq!(runtime.spec_of(tensor).unwrap().spec, spec);
        runtime.free(tensor).unwrap();
    }
}

pub fn what_does_not_fit(runtime: &mut Runtime) {
    let argument = |error: Error| match error {
        Error::Argument(message) => message,
        other => panic!("{other:?}"),
    };
    let spec = tiles(&[2, 3], DataType::Float32);
    let error = runtime.upload(&spec, HostData::Float32(&[0.0; 5])).unwrap_err();
    assert_eq!(argument(error), "5 values for a tensor of shape [2, 3]");
    let error = runtime.upload(&spec, HostData::Uint32(&[0; 6])).unwrap_err();
    assert_eq!(argument(error), "values of uint32 where float32 is expected");
    let tensor = runtime.allocate(&spec).unwrap();
    assert!(matches!(runtime.write(tensor, HostData::Float32(&[0.0; 7]), 0), Err(Error::Argument(_))));
    assert!(matches!(runtime.write(tensor, HostData::Bfloat16(&[0; 6]), 0), Err(Error::Argument(_))));
    assert!(matches!(runtime.read(tensor, &mut [0.0; 7], 0), Err(Error::Argument(_))));
    assert!(raised(runtime.write(tensor, HostData::Float32(&[0.0; 6]), 5)).contains("out of range"));
    runtime.free(tensor).unwrap();
    assert!(raised(runtime.free(tensor)).contains("there is no tensor"));
    assert!(raised(runtime.write(tensor, HostData::Float32(&[0.0; 6]), 0)).contains("there is no tensor"));
    let tensor = runtime.allocate(&tiles(&[2, 3], DataType::Bfloat16)).unwrap();
    assert!(matches!(runtime.read(tensor, &mut [0.0; 6], 0), Err(Error::Argument(_))));
    runtime.free(tensor).unwrap();
}

pub fn read_and_write(runtime: &mut Runtime) {
    for layout in [Layout::Tile, Layout::RowMajor] {
        let spec = spec(&[1, 50, 33], DataType::Float32, layout, Memory::Dram);
        let tensor = runtime.allocate(&spec).unwrap();
        let address = runtime.spec_of(tensor).unwrap().address;
        for queue in [0, 1] {
            runtime.write(tensor, HostData::Float32(&[2.0; 1650]), queue).unwrap();
            let mut values = [9.0; 1650];
            runtime.read(tensor, &mut values, queue).unwrap();
            assert!(values.iter().all(|value| *value == 0.0), "a mock card reads zeros");
        }
        assert_eq!(runtime.spec_of(tensor).unwrap().address, address);
        runtime.free(tensor).unwrap();
    }
}

pub fn memory_comes_and_goes(runtime: &mut Runtime) {
    let allocated = |runtime: &mut Runtime| runtime.memory(Memory::Dram).unwrap().allocated_per_bank;
    let before = allocated(runtime);
    let tensor = runtime.allocate(&tiles(&[1, 1, 1024, 1024], DataType::Bfloat16)).unwrap();
    let view = runtime.memory(Memory::Dram).unwrap();
    assert!(view.allocated_per_bank - before >= (2 << 20) / view.banks);
    assert_eq!(view.free_per_bank + view.allocated_per_bank, view.total_per_bank);
    let viewed = runtime
        .call("ttnn.reshape", &format!(r#"{{"operands": [{{"tensor": {}}}, [1024, 1024]]}}"#, tensor.id()))
        .unwrap();
    assert_eq!(runtime.spec_of(viewed[0]).unwrap().address, runtime.spec_of(tensor).unwrap().address);
    runtime.free(tensor).unwrap();
    assert!(allocated(runtime) > before, "a view keeps the memory");
    runtime.free(viewed[0]).unwrap();
    assert_eq!(allocated(runtime), before);

    // The temporaries of rounding to bfloat8_b go. What stays after the first time are the programs.
    let spec = tiles(&[256, 256], DataType::Bfloat8B);
    let upload = |runtime: &mut Runtime| {
        let tensor = runtime.upload(&spec, HostData::Bfloat16(&[0; 65536])).unwrap();
        runtime.free(tensor).unwrap();
        allocated(runtime)
    };
    let first = upload(runtime);
    assert_eq!(upload(runtime), first);
    assert!(
        raised(runtime.allocate(&tiles(&[1 << 20, 1 << 20], DataType::Bfloat16))).contains("Out of Memory")
    );
}
