//! Operations called by name.

use tt_metal_sys::{DataType, Error, Layout, Memory, Runtime, Tensor};

use crate::{raised, spec, tiles};

/// `[64, 128] x [128, 96] + [1, 96]`.
pub struct Linear {
    pub tensors: [Tensor; 3],
    arguments: String,
}

impl Linear {
    pub fn new(runtime: &mut Runtime) -> Self {
        let tensors = [[64, 128], [128, 96], [1, 96]]
            .map(|shape| runtime.allocate(&tiles(&shape, DataType::Bfloat16)).unwrap());
        let [input, weight, bias] = tensors.map(Tensor::id);
        let arguments = format!(
            r#"{{"operands": [{{"tensor": {input}}}, {{"tensor": {weight}}}],
                "attributes": {{"bias": {{"tensor": {bias}}}, "activation": "gelu", "core_grid": {{"grid": [8, 4]}},
                    "dtype": {{"dtype": "float32"}}, "memory_config": {{"memory": "l1"}},
                    "compute_kernel_config": {{"compute": {{"fidelity": "HiFi4", "fp32_accumulate": true,
                        "approximate": false, "l1_accumulate": true}}}}}}}}"#
        );
        Self { tensors, arguments }
    }

    pub fn call(&self, runtime: &mut Runtime) -> Result<Tensor, Error> {
        runtime.call("ttnn.linear", &self.arguments).map(|results| results[0])
    }

    pub fn free(self, runtime: &mut Runtime) {
        for tensor in self.tensors {
            runtime.free(tensor).unwrap();
        }
    }
}

pub fn results(runtime: &mut Runtime) {
    let linear = Linear::new(runtime);
    let result = linear.call(runtime).unwrap();
    let expected = spec(&[64, 96], DataType::Float32, Layout::Tile, Memory::L1);
    assert_eq!(runtime.spec_of(result).unwrap().spec, expected);
    runtime.free(result).unwrap();
    let programs = runtime.program_cache_entries().unwrap();
    let result = linear.call(runtime).unwrap();
    runtime.free(result).unwrap();
    assert_eq!(runtime.program_cache_entries().unwrap(), programs);
    assert!(programs > 0);
    linear.free(runtime);

    let joined = runtime.allocate(&tiles(&[1, 1, 64, 2560], DataType::Bfloat16)).unwrap();
    let arguments = format!(
        r#"{{"operands": [{{"tensor": {}}}], "attributes": {{"num_heads": 8, "num_kv_heads": 1,
            "transpose_k_heads": false, "memory_config": {{"memory": "dram"}}}}}}"#,
        joined.id()
    );
    let heads = runtime.call("ttnn.experimental.nlp_create_qkv_heads", &arguments).unwrap();
    let shapes: Vec<_> = heads.iter().map(|head| runtime.spec_of(*head).unwrap().spec.shape).collect();
    assert_eq!(shapes, [[1, 8, 64, 256], [1, 1, 64, 256], [1, 1, 64, 256]]);
    for tensor in heads.into_iter().chain([joined]) {
        runtime.free(tensor).unwrap();
    }
}

pub fn every_tag(runtime: &mut Runtime) {
    let mut tensor = |shape: &[u32]| runtime.allocate(&tiles(shape, DataType::Bfloat16)).unwrap();
    let (a, b, heads) = (tensor(&[1, 1, 64, 128]), tensor(&[1, 1, 128, 96]), tensor(&[1, 8, 64, 64]));
    let (a_id, b_id, heads_id) = (a.id(), b.id(), heads.id());
    let block = r#""in0_block_w": 2, "out_subblock_h": 1, "out_subblock_w": 1"#;
    let configurations = [
        format!(r#"{{"matmul_reuse": {{"grid": [1, 1], {block}, "per_core_m": 2, "per_core_n": 3}}}}"#),
        format!(
            r#"{{"matmul_1d": {{"grid": [3, 1], {block}, "per_core_m": 2, "per_core_n": 1, "fuse_batch": true,
                "mcast_in0": true, "activation": "GELU_TANH"}}}}"#
        ),
        format!(
            r#"{{"matmul_2d": {{"grid": [3, 2], {block}, "per_core_m": 1, "per_core_n": 1, "transpose_mcast": false,
                "activation": null}}}}"#
        ),
    ];
    let matmuls = configurations.map(|configuration| {
        let operands = format!(r#"[{{"tensor": {a_id}}}, {{"tensor": {b_id}}}]"#);
        (
            "ttnn.matmul",
            format!(r#"{{"operands": {operands}, "attributes": {{"program_config": {configuration}}}}}"#),
        )
    });
    let others = [
        (
            "ttnn.transformer.scaled_dot_product_attention",
            format!(
                r#"{{"operands": [{{"tensor": {heads_id}}}, {{"tensor": {heads_id}}}, {{"tensor": {heads_id}}}],
                    "attributes": {{"is_causal": false, "scale": 0.125,
                        "program_config": {{"sdpa": {{"grid": [8, 4], "q_chunk": 32, "k_chunk": 64, "approximate": false}}}}}}}}"#
            ),
        ),
        (
            "ttnn.add",
            format!(
                r#"{{"operands": [{{"tensor": {a_id}}}, 1.5], "attributes": {{"activations": [{{"unary": "SILU"}}]}}}}"#
            ),
        ),
        (
            "ttnn.allocate_tensor_on_device",
            // The device is no operand, so this fails, but after its values were understood.
            r#"{"operands": [{"shape": [1, 32]}, {"dtype": "uint32"}, {"layout": "row_major"}, {"coord": [1, 2]}]}"#.into(),
        ),
    ];
    for (name, arguments) in matmuls.into_iter().chain(others) {
        let results = runtime.call(name, &arguments);
        if name == "ttnn.allocate_tensor_on_device" {
            assert!(raised(results).contains("incompatible function arguments"));
            continue;
        }
        for tensor in results.unwrap_or_else(|error| panic!("{name} {arguments}: {error}")) {
            runtime.free(tensor).unwrap();
        }
    }
    for tensor in [a, b, heads] {
        runtime.free(tensor).unwrap();
    }
}

pub fn errors(runtime: &mut Runtime) {
    let [a, b] =
        [[64, 128], [96, 64]].map(|shape| runtime.allocate(&tiles(&shape, DataType::Bfloat16)).unwrap());
    let arguments = format!(r#"{{"operands": [{{"tensor": {}}}, {{"tensor": {}}}]}}"#, a.id(), b.id());
    let message = raised(runtime.call("ttnn.linear", &arguments));
    assert!(message.starts_with("TT_FATAL @ "), "{message}");
    assert!(
        message.contains("The width of the first tensor must be equal to the height of the second"),
        "{message}"
    );
    for (name, arguments, expected) in [
        ("ttnn.lineal", "{}", "AttributeError"),
        ("os.getcwd", "{}", "operations begin with 'ttnn.'"),
        ("ttnn.add", "{", "JSONDecodeError"),
        ("ttnn.add", r#"{"operands": [{"tensor": 0}]}"#, "there is no tensor 0"),
        ("ttnn.add", r#"{"operands": [{"colour": 0}]}"#, "there is no tag 'colour'"),
        ("ttnn.add", r#"{"operands": [{"dtype": "float8"}]}"#, "there is no data type 'float8'"),
        ("ttnn.add", r#"{"operands": [1, 2]}"#, "TypeError"),
        ("ttnn.get_device_ids", "{}", "which is no tensor"),
    ] {
        let message = raised(runtime.call(name, arguments));
        assert!(message.contains(expected), "{message}");
    }
    for tensor in [a, b] {
        runtime.free(tensor).unwrap();
    }
}
