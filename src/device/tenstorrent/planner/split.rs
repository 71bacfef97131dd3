//! How the library shares out over cores what is no product and no attention: how many tiles the busiest core reads, writes or has.
//! Called by `work`.
//!
//! The rules are ttnn 0.81.1's own, read from the run-time arguments that it gives to every core of a mock P150 (13 x 10): most
//! operations deal tiles to all cores, some whole rows of tiles or heads, and shards stay where they are.

use super::super::TILE;
use super::super::card::Card;
use super::super::program::{Call, Memory, Program, Shards, Tensor};

/// Tiles that the busiest core reads, writes or has; and how many of them are results.
pub fn busiest(program: &Program, call: &Call, card: &Card) -> (usize, usize) {
    let Some(result) = call.results.first().map(|&id| program.tensor(id)) else { return (0, 0) };
    let cores = card.cores();
    let reads = call.reads();
    let operands: Vec<&Tensor> = reads.iter().map(|&id| program.tensor(id)).collect();
    let each =
        |units: usize, tiles: usize| (2 * units.div_ceil(cores) * tiles, units.div_ceil(cores) * tiles);
    let Some(&x) = operands.first() else { return (0, 0) };
    let [rows, columns] = tiles(x);
    let shape = &result.shape;
    match call.operation {
        "ttnn.rms_norm" | "ttnn.layer_norm" => {
            let vectors = operands.len() - 1;
            match result.memory.shards() {
                Some(shards) => {
                    let own = shard_tiles(shards);
                    let exchanges = if call.operation == "ttnn.layer_norm" { 2 } else { 1 };
                    let [height, width] = [shards.rows / TILE, shards.width / TILE];
                    (own + exchanges * (partial_sums(result.memory) + height) + vectors * width, own)
                }
                None => {
                    let own = rows.div_ceil(cores) * columns;
                    (2 * own + vectors * columns, own)
                }
            }
        }
        // One side lies beside cores, the other one does not.
        "ttnn.to_memory_config" => {
            let own = x.memory.shards().or(result.memory.shards()).map_or(0, shard_tiles);
            (own, own)
        }
        "ttnn.experimental.nlp_create_qkv_heads"
        | "ttnn.transformer.split_query_key_value_and_split_heads" => {
            let heads: usize = call.results.iter().map(|&id| program.tensor(id).shape[1]).sum();
            each(shape[0] * shape[2].div_ceil(TILE) * heads, shape[3].div_ceil(TILE))
        }
        "ttnn.transformer.concatenate_heads" => {
            let [batch, heads, rows, width] = x.shape[..] else { return (0, 0) };
            each(batch * rows.div_ceil(TILE) * heads, width.div_ceil(TILE))
        }
        "ttnn.experimental.rotary_embedding_llama" => rotary(&operands, cores),
        // Rows of tiles; of a table that is looked up only what is found.
        "ttnn.embedding" => {
            let [rows, columns] = tiles(result);
            each(rows, columns)
        }
        "ttnn.to_layout" => each(rows, columns),
        "ttnn.concat" | "ttnn.slice" | "ttnn.permute" => each(count(result), 1),
        _ if is_where_it_lies(result, &operands) => {
            let own = result.memory.shards().map_or(0, shard_tiles);
            (own, own)
        }
        _ => {
            let own = count(result).div_ceil(cores);
            ((operands.len() + 1) * own, own)
        }
    }
}

/// Rotated are rows of tiles, shared out by batch, then rows, then heads; tables are read for each head, or once for all.
fn rotary(operands: &[&Tensor], cores: usize) -> (usize, usize) {
    let &[x, table, ..] = operands else { return (0, 0) };
    let [batch, heads, rows, width] = x.shape[..] else { return (0, 0) };
    let (rows, width) = (rows.div_ceil(TILE), width.div_ceil(TILE));
    let by_batch = batch.min(cores);
    let by_rows = rows.min(cores / by_batch);
    let by_heads = heads.min(cores / (by_batch * by_rows));
    let own_rows = batch.div_ceil(by_batch) * rows.div_ceil(by_rows);
    let own_heads = heads.div_ceil(by_heads);
    let tables = if table.shape[1] == heads { own_heads } else { 1 };
    (2 * own_rows * (own_heads + tables) * width, own_rows * own_heads * width)
}

/// Whether all operands are shared out as the result is, so that nothing moves.
fn is_where_it_lies(result: &Tensor, operands: &[&Tensor]) -> bool {
    result.memory.shards().is_some()
        && operands.iter().all(|operand| operand.memory == result.memory && operand.shape == result.shape)
}

/// Partial results of a norm that one core reads: those of its row of cores, and of each row where columns lie on several.
fn partial_sums(memory: Memory) -> usize {
    match memory {
        Memory::Columns(Shards { grid: [across, down], .. }) => across + down - 1,
        Memory::Blocks(Shards { grid: [across, down], transposed, .. }) => {
            if transposed {
                down
            } else {
                across
            }
        }
        Memory::Dram | Memory::L1 => 0,
    }
}

fn shard_tiles(shards: Shards) -> usize {
    shards.rows.div_ceil(TILE) * shards.width.div_ceil(TILE)
}

/// Rows and columns of tiles.
fn tiles(tensor: &Tensor) -> [usize; 2] {
    let [leading @ .., columns] = &tensor.shape[..] else { return [1, 1] };
    let rows: usize = leading.iter().product();
    [rows.div_ceil(TILE), columns.div_ceil(TILE)]
}

fn count(tensor: &Tensor) -> usize {
    tiles(tensor).iter().product()
}
