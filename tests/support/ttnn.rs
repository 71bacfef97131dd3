//! TTNN's operations as plain loops in f32, as far as lowered programs use them: what is tested is the lowering, on every
//! machine. Written from the library's documentation; Tenstorrent's own definitions are run by tests/tenstorrent_golden.rs.

use std::collections::HashMap;

use pi0_node::device::tenstorrent::Program;
use pi0_node::device::tenstorrent::program::{Argument, Call, Origin, TensorId};

#[derive(Clone, Debug)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

impl Array {
    fn last(&self, from_end: usize) -> usize {
        self.shape[self.shape.len() - from_end]
    }

    fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact(self.last(1))
    }

    fn mapped(&self, rows: impl FnMut(&[f32]) -> Vec<f32>) -> Self {
        Self { shape: self.shape.clone(), data: self.rows().flat_map(rows).collect() }
    }
}

/// Runs a program: `uploads` are its tensors' contents, `residents` what other programs left. Gives every tensor that is
/// still there at the end; one that is read after its last use is not.
pub fn run(
    program: &Program,
    uploads: impl IntoIterator<Item = (u32, Vec<f32>)>,
    residents: &mut HashMap<String, Array>,
) -> HashMap<u32, Array> {
    let mut arrays: HashMap<u32, Array> = uploads
        .into_iter()
        .map(|(id, data)| (id, Array { shape: program.tensor(TensorId(id)).shape.clone(), data }))
        .collect();
    for (id, tensor) in program.ids() {
        if let Origin::Resident(name) = &tensor.origin {
            arrays.insert(id.0, residents[name].clone());
        }
    }
    for call in &program.calls {
        let results = Operation { call, arrays: &arrays }.results();
        assert_eq!(results.len(), call.results.len(), "{}", call.operation);
        for (id, result) in call.results.iter().zip(results) {
            assert_eq!(result.shape, program.tensor(*id).shape, "{} of {}", call.operation, call.node);
            arrays.insert(id.0, result);
        }
        for id in &call.last_uses {
            arrays.remove(&id.0).unwrap();
        }
    }
    for (name, id) in &program.residents {
        residents.insert(name.clone(), arrays[&id.0].clone());
    }
    arrays
}

/// A call with its operands at hand.
struct Operation<'a> {
    call: &'a Call,
    arrays: &'a HashMap<u32, Array>,
}

impl<'a> Operation<'a> {
    fn array(&self, id: TensorId) -> &'a Array {
        self.arrays
            .get(&id.0)
            .unwrap_or_else(|| panic!("{} of {} reads %{}", self.call.operation, self.call.node, id.0))
    }

    fn operand(&self, index: usize) -> &'a Array {
        match &self.call.operands[index] {
            Argument::Tensor(id) => self.array(*id),
            other => panic!("{other} is no tensor"),
        }
    }

    fn numbers(&self, index: usize) -> Vec<usize> {
        let Argument::List(items) = &self.call.operands[index] else { panic!("no list") };
        let number = |item: &Argument| match item {
            Argument::Integer(value) => usize::try_from(*value).unwrap(),
            other => panic!("{other} is no number"),
        };
        items.iter().map(number).collect()
    }

    fn attribute(&self, name: &str) -> Option<&'a Argument> {
        self.call.attributes.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    fn tensor(&self, name: &str) -> Option<&'a Array> {
        match self.attribute(name)? {
            Argument::Tensor(id) => Some(self.array(*id)),
            other => panic!("{other} is no tensor"),
        }
    }

    fn integer(&self, name: &str) -> usize {
        match self.attribute(name) {
            Some(Argument::Integer(value)) => usize::try_from(*value).unwrap(),
            other => panic!("{name} is {other:?}"),
        }
    }

    fn number(&self, name: &str) -> f32 {
        match self.attribute(name) {
            Some(Argument::Number(value)) => *value as f32,
            other => panic!("{name} is {other:?}"),
        }
    }

    fn results(&self) -> Vec<Array> {
        vec![match self.call.operation {
            "ttnn.linear" => self.linear(),
            "ttnn.layer_norm" => self.norm(true),
            "ttnn.rms_norm" => self.norm(false),
            "ttnn.add" => self.elementwise(|a, b| a + b),
            "ttnn.subtract" => self.elementwise(|a, b| a - b),
            "ttnn.multiply" => match self.attribute("input_tensor_a_activations") {
                None => self.elementwise(|a, b| a * b),
                Some(Argument::List(functions)) => match functions[..] {
                    [Argument::Unary(name)] => self.elementwise(|a, b| unary(name, a) * b),
                    _ => panic!("{functions:?}"),
                },
                Some(other) => panic!("{other}"),
            },
            "ttnn.addcmul" => self.add_product(),
            "ttnn.relu" => self.operand(0).mapped(|row| row.iter().map(|&x| unary("RELU", x)).collect()),
            "ttnn.silu" => self.operand(0).mapped(|row| row.iter().map(|&x| unary("SILU", x)).collect()),
            "ttnn.where" => self.choose(),
            "ttnn.concat" => self.concat(),
            "ttnn.slice" => self.slice(),
            "ttnn.permute" => permute(self.operand(0), &self.numbers(1)),
            "ttnn.narrow" => self.narrow(),
            "ttnn.experimental.view" => self.same_tiles(),
            "ttnn.experimental.minimal_matmul_split" => return self.two_products(),
            "ttnn.experimental.nlp_create_qkv_heads" => return self.create_heads(),
            "ttnn.reshape" => Array { shape: self.numbers(1), data: self.operand(0).data.clone() },
            "ttnn.typecast" | "ttnn.to_layout" | "ttnn.to_memory_config" => self.operand(0).clone(),
            "ttnn.fold" => self.fold(),
            "ttnn.embedding" => self.embedding(),
            "ttnn.experimental.rotary_embedding_llama" => self.rotary(),
            "ttnn.transformer.concatenate_heads" => side_by_side(self.operand(0)),
            "ttnn.transformer.scaled_dot_product_attention" => self.attention(),
            "ttnn.transformer.paged_scaled_dot_product_attention_decode" => self.paged_attention(),
            "ttnn.transformer.split_query_key_value_and_split_heads" => return self.split_heads(),
            other => panic!("{other} has no plain definition here"),
        }]
    }

    fn linear(&self) -> Array {
        let activation = match self.attribute("program_config") {
            Some(Argument::MatmulSpread(spread)) => spread.activation,
            other => panic!("{other:?}"),
        };
        self.product(self.operand(0), activation)
    }

    /// `activation(x w + b)`
    fn product(&self, x: &Array, activation: Option<&str>) -> Array {
        let weight = self.operand(1);
        let (depth, columns) = (weight.last(2), weight.last(1));
        assert_eq!(x.last(1), depth);
        let bias = self.tensor("bias");
        let mut shape = x.shape.clone();
        *shape.last_mut().unwrap() = columns;
        let row = |row: &[f32]| {
            let mut sums = bias.map_or(vec![0.0; columns], |bias| bias.data.clone());
            for (&x, weights) in row.iter().zip(weight.data.chunks_exact(columns)) {
                sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += x * weight);
            }
            sums.into_iter().map(|x| activation.map_or(x, |name| unary(name, x))).collect::<Vec<_>>()
        };
        Array { shape, data: x.rows().flat_map(row).collect() }
    }

    /// A product whose columns are two results.
    fn two_products(&self) -> Vec<Array> {
        assert_eq!((self.integer("chunks"), self.attribute("dim")), (2, Some(&Argument::Integer(-1))));
        let both = self.product(self.operand(0), None);
        let width = both.last(1) / 2;
        let half = |start: usize| {
            let mut shape = both.shape.clone();
            *shape.last_mut().unwrap() = width;
            Array { shape, data: both.rows().flat_map(|row| row[start..start + width].to_vec()).collect() }
        };
        vec![half(0), half(width)]
    }

    fn position(&self, index: usize) -> usize {
        match self.call.operands[index] {
            Argument::Integer(value) => usize::try_from(value).unwrap(),
            ref other => panic!("{other} is no number"),
        }
    }

    /// Part of an axis.
    fn narrow(&self) -> Array {
        let x = self.operand(0);
        let (axis, start, length) = (self.position(1), self.position(2), self.position(3));
        let (outer, inner): (usize, usize) =
            (x.shape[..axis].iter().product(), x.shape[axis + 1..].iter().product());
        let mut shape = x.shape.clone();
        shape[axis] = length;
        let part = |i: usize| {
            let from = (i * x.shape[axis] + start) * inner;
            x.data[from..from + length * inner].to_vec()
        };
        Array { shape, data: (0..outer).flat_map(part).collect() }
    }

    /// The same tiles of 32 x 32, one after the other row by row, as another shape.
    fn same_tiles(&self) -> Array {
        let x = self.operand(0);
        let mut result = Array { shape: self.numbers(1), data: vec![0.0; x.data.len()] };
        let (from, to) = (x.last(1), result.last(1));
        assert!(from.is_multiple_of(32) && to.is_multiple_of(32) && x.last(2).is_multiple_of(32));
        for tile in 0..x.data.len() / 1024 {
            let corner = |width: usize| tile / (width / 32) * 32 * width + tile % (width / 32) * 32;
            for row in 0..32 {
                let (source, target) = (corner(from) + row * from, corner(to) + row * to);
                result.data[target..target + 32].copy_from_slice(&x.data[source..source + 32]);
            }
        }
        result
    }

    fn norm(&self, centred: bool) -> Array {
        let (epsilon, weight) = (self.number("epsilon"), self.tensor("weight"));
        let bias = self.tensor("bias");
        self.operand(0).mapped(|row| {
            let count = row.len() as f32;
            let mean = if centred { row.iter().sum::<f32>() / count } else { 0.0 };
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count;
            let scale = 1.0 / (variance + epsilon).sqrt();
            let value = |(i, x): (usize, &f32)| {
                (x - mean) * scale * weight.map_or(1.0, |weight| weight.data[i])
                    + bias.map_or(0.0, |bias| bias.data[i])
            };
            row.iter().enumerate().map(value).collect()
        })
    }

    /// Two tensors, of which the second may have one row or one column, or a tensor and a number.
    fn elementwise(&self, f: impl Fn(f32, f32) -> f32) -> Array {
        let a = self.operand(0);
        let b = match &self.call.operands[1] {
            Argument::Number(number) => &Array { shape: vec![1], data: vec![*number as f32] },
            _ => self.operand(1),
        };
        let width = if b.shape.len() > 1 && b.last(1) == 1 { a.last(1) } else { 1 };
        let data = a.data.iter().enumerate().map(|(i, &x)| f(x, b.data[i / width % b.data.len()]));
        Array { shape: a.shape.clone(), data: data.collect() }
    }

    /// `a + value * b * c`, all of one shape.
    fn add_product(&self) -> Array {
        let (a, b, c) = (self.operand(0), self.operand(1), self.operand(2));
        assert!(a.shape == b.shape && b.shape == c.shape, "{:?} {:?} {:?}", a.shape, b.shape, c.shape);
        let value = self.number("value");
        let factors = b.data.iter().zip(&c.data);
        let data = a.data.iter().zip(factors).map(|(a, (b, c))| a + value * b * c);
        Array { shape: a.shape.clone(), data: data.collect() }
    }

    /// The choice has one column.
    fn choose(&self) -> Array {
        let (choice, a, b) = (self.operand(0), self.operand(1), self.operand(2));
        let width = a.last(1);
        assert_eq!((choice.last(1), choice.data.len()), (1, a.data.len() / width));
        let data = (0..a.data.len()).map(|i| match choice.data[i / width] {
            0.0 => b.data[i],
            _ => a.data[i],
        });
        Array { shape: a.shape.clone(), data: data.collect() }
    }

    fn concat(&self) -> Array {
        let Argument::List(parts) = &self.call.operands[0] else { panic!("no list") };
        let parts: Vec<&Array> = parts
            .iter()
            .map(|part| match part {
                Argument::Tensor(id) => self.array(*id),
                other => panic!("{other} is no tensor"),
            })
            .collect();
        let axis = self.integer("dim");
        let mut shape = parts[0].shape.clone();
        shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
        let outer: usize = shape[..axis].iter().product();
        let mut data = Vec::new();
        for i in 0..outer {
            for part in &parts {
                let size = part.data.len() / outer;
                data.extend_from_slice(&part.data[i * size..(i + 1) * size]);
            }
        }
        Array { shape, data }
    }

    fn slice(&self) -> Array {
        let (x, starts, ends) = (self.operand(0), self.numbers(1), self.numbers(2));
        let shape: Vec<usize> = starts.iter().zip(&ends).map(|(start, end)| end - start).collect();
        let data = indices(&shape)
            .map(|index| {
                let position = index
                    .iter()
                    .zip(&starts)
                    .zip(&x.shape)
                    .fold(0, |position, ((i, start), length)| position * length + i + start);
                x.data[position]
            })
            .collect();
        Array { shape, data }
    }

    /// `[n, height, width, channels]` to squares: row, column, channel.
    fn fold(&self) -> Array {
        let x = self.operand(0);
        let [n, height, width, channels] = x.shape[..] else { panic!("{:?}", x.shape) };
        let Argument::Integer(side) = self.call.operands[1] else { panic!("no side") };
        let side = usize::try_from(side).unwrap();
        let apart =
            Array { shape: vec![n, height / side, side, width / side, side, channels], data: x.data.clone() };
        let squares = permute(&apart, &[0, 1, 3, 2, 4, 5]);
        Array { shape: vec![n, height / side, width / side, side * side * channels], data: squares.data }
    }

    fn embedding(&self) -> Array {
        let (tokens, table) = (self.operand(0), self.operand(1));
        let width = table.last(1);
        let row = |&token: &f32| table.data[token as usize * width..(token as usize + 1) * width].to_vec();
        Array {
            shape: vec![tokens.shape[0], tokens.shape[1], width],
            data: tokens.data.iter().flat_map(row).collect(),
        }
    }

    /// `x cos + (x t) sin`, where t exchanges neighbours; the angles are every head's own, or the same for all.
    fn rotary(&self) -> Array {
        let (x, cosines, sines, exchange) =
            (self.operand(0), self.operand(1), self.operand(2), self.operand(3));
        let width = x.last(1);
        assert!(cosines.shape[1] == x.shape[1] || cosines.shape[1] == 1, "{:?}", cosines.shape);
        assert_eq!((cosines.last(2), cosines.last(1), &cosines.shape), (x.last(2), width, &sines.shape));
        let mut number = 0;
        x.mapped(|row| {
            let start = number * width % cosines.data.len();
            number += 1;
            let exchanged = |i: usize| {
                let first = i / 32 * 32;
                (0..32).map(|j| row[first + j] * exchange.data[j * 32 + i % 32]).sum::<f32>()
            };
            let value = |i: usize| row[i] * cosines.data[start + i] + exchanged(i) * sines.data[start + i];
            (0..width).map(value).collect()
        })
    }

    /// `[1, 1, rows, columns]` to queries, keys and values; if these are tied, to queries and twice the keys.
    fn create_heads(&self) -> Vec<Array> {
        let x = self.operand(0);
        assert_eq!(self.attribute("transpose_k_heads"), Some(&Argument::Flag(false)));
        let tied = self.attribute("kv_tied") == Some(&Argument::Flag(true));
        let [1, 1, rows, columns] = x.shape[..] else { panic!("{:?}", x.shape) };
        let (heads, kv_heads) = (self.integer("num_heads"), self.integer("num_kv_heads"));
        let all = heads + if tied { 1 } else { 2 } * kv_heads;
        let dim = columns / all;
        let apart = Array { shape: vec![1, rows, all, dim], data: x.data.clone() };
        let apart = permute(&apart, &[0, 2, 1, 3]);
        let part = |start: usize, count: usize| {
            let data = apart.data[start * rows * dim..(start + count) * rows * dim].to_vec();
            Array { shape: vec![1, count, rows, dim], data }
        };
        vec![part(0, heads), part(heads, kv_heads), part(all - kv_heads, kv_heads)]
    }

    /// `[batch, rows, columns]` to queries, keys and values `[batch, heads, rows, head_dim]`.
    fn split_heads(&self) -> Vec<Array> {
        let x = self.operand(0);
        let [batch, rows, columns] = x.shape[..] else { panic!("{:?}", x.shape) };
        let (heads, kv_heads) = (self.integer("num_heads"), self.integer("num_kv_heads"));
        let all = heads + 2 * kv_heads;
        let dim = columns / all;
        let apart = Array { shape: vec![batch, rows, all, dim], data: x.data.clone() };
        let apart = permute(&apart, &[0, 2, 1, 3]);
        let part = |start: usize, count: usize| {
            let of_batch = |i: usize| {
                let size = rows * dim;
                apart.data[(i * all + start) * size..(i * all + start + count) * size].to_vec()
            };
            Array { shape: vec![batch, count, rows, dim], data: (0..batch).flat_map(of_batch).collect() }
        };
        vec![part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads)]
    }

    /// One token of each user, whose keys are in the pages that its row of the table names: `[1, users, heads, head_dim]`.
    fn paged_attention(&self) -> Array {
        let (q, table) = (self.operand(0), self.tensor("page_table_tensor").unwrap());
        let mask = self.tensor("attn_mask").unwrap();
        let [1, users, heads, dim] = q.shape[..] else { panic!("{:?}", q.shape) };
        let keys = table.last(1) * self.operand(1).shape[2];
        // The kernel takes users from the mask's first axis, again and again where it is shorter.
        let [masks, 1, _, _] = mask.shape[..] else { panic!("{:?}", mask.shape) };
        assert_eq!((table.shape[0], &mask.shape[2..]), (users, &[heads, keys][..]));
        let mut data = Vec::new();
        for user in 0..users {
            let size = heads * dim;
            let one = Array { shape: vec![1, 1, heads, dim], data: q.data[user * size..][..size].to_vec() };
            let of_user = |pages: &Array| {
                let page = pages.data.len() / pages.shape[0];
                let of = |&number: &f32| pages.data[number as usize * page..][..page].to_vec();
                let data = table.data[user * table.last(1)..][..table.last(1)].iter().flat_map(of).collect();
                Array { shape: vec![1, 1, keys, dim], data }
            };
            let (k, v) = (of_user(self.operand(1)), of_user(self.operand(2)));
            let size = heads * keys;
            let mask =
                Array { shape: vec![heads, keys], data: mask.data[user % masks * size..][..size].to_vec() };
            data.extend(self.attend(&one, &k, &v, Some(&mask)).data);
        }
        Array { shape: q.shape.clone(), data }
    }

    fn attention(&self) -> Array {
        let q = self.operand(0);
        assert_eq!(self.attribute("output_concat_heads"), Some(&Argument::Flag(true)));
        let found = self.attend(q, self.operand(1), self.operand(2), self.tensor("attn_mask"));
        Array {
            shape: vec![q.shape[0], 1, q.shape[2], q.shape[1] * q.shape[3]],
            data: side_by_side(&found).data,
        }
    }

    fn attend(&self, q: &Array, k: &Array, v: &Array, mask: Option<&Array>) -> Array {
        let scale = self.number("scale");
        assert_eq!(self.attribute("is_causal"), Some(&Argument::Flag(false)));
        let [batch, heads, queries, dim] = q.shape[..] else { panic!("{:?}", q.shape) };
        let (kv_heads, keys) = (k.shape[1], k.shape[2]);
        let mut out = Array { shape: q.shape.clone(), data: Vec::with_capacity(q.data.len()) };
        for (number, query) in q.rows().enumerate() {
            let (i, head, row) = (number / queries / heads, number / queries % heads, number % queries);
            let start = (i * kv_heads + head * kv_heads / heads) * keys * dim;
            let of = |x: &Array, key: usize| x.data[start + key * dim..start + (key + 1) * dim].to_vec();
            let scores: Vec<f32> = (0..keys)
                .map(|key| {
                    let product: f32 = query.iter().zip(of(k, key)).map(|(a, b)| a * b).sum();
                    scale * product + mask.map_or(0.0, |mask| mask.data[row * keys + key])
                })
                .collect();
            let largest = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f32 = weights.iter().sum();
            let mut result = vec![0.0; dim];
            for (key, weight) in weights.iter().enumerate() {
                result.iter_mut().zip(of(v, key)).for_each(|(out, value)| *out += weight / sum * value);
            }
            out.data.extend(result);
        }
        assert_eq!(out.data.len(), batch * heads * queries * dim);
        out
    }
}

fn unary(name: &str, x: f32) -> f32 {
    match name {
        "RELU" => x.max(0.0),
        "SILU" => x / (1.0 + (-x).exp()),
        "GELU_TANH" => {
            0.5 * x * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
        }
        other => panic!("{other} has no plain definition here"),
    }
}

/// `[batch, heads, rows, head_dim]` to `[batch, rows, heads * head_dim]`.
fn side_by_side(x: &Array) -> Array {
    let [batch, heads, rows, dim] = x.shape[..] else { panic!("{:?}", x.shape) };
    Array { shape: vec![batch, rows, heads * dim], data: permute(x, &[0, 2, 1, 3]).data }
}

fn permute(x: &Array, order: &[usize]) -> Array {
    let shape: Vec<usize> = order.iter().map(|&axis| x.shape[axis]).collect();
    let mut strides = vec![1; x.shape.len()];
    for axis in (1..x.shape.len()).rev() {
        strides[axis - 1] = strides[axis] * x.shape[axis];
    }
    let position =
        |index: Vec<usize>| index.iter().zip(order).map(|(i, &axis)| i * strides[axis]).sum::<usize>();
    let data = indices(&shape).map(|index| x.data[position(index)]).collect();
    Array { shape, data }
}

/// Every index of a shape, row by row.
fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let shape = shape.to_vec();
    (0..shape.iter().product()).map(move |mut position: usize| {
        let mut index = vec![0; shape.len()];
        for (i, length) in index.iter_mut().zip(&shape).rev() {
            *i = position % length;
            position /= length;
        }
        index
    })
}
