//! Bayer mosaics to colours: what a pixel lacks is the mean of its neighbours that have it. As OpenCV's bilinear `cvtColor`, which
//! image_proc and cv_bridge use: a pixel at the edge is as its neighbour inside. Called by `image`.

/// Where red is in each two by two pixels; blue is diagonally opposite, green in the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    red: (usize, usize),
}

impl Pattern {
    /// Of a name such as `bayer_rggb8`, and whether its pixels have 16 bits. The letters are those of the first two rows.
    pub fn of(name: &str) -> Option<(Self, bool)> {
        let letters = name.strip_prefix("bayer_")?;
        let (letters, wide) = match letters.strip_suffix("16") {
            Some(letters) => (letters, true),
            None => (letters.strip_suffix('8')?, false),
        };
        let red = match letters {
            "rggb" => (0, 0),
            "grbg" => (1, 0),
            "gbrg" => (0, 1),
            "bggr" => (1, 1),
            _ => return None,
        };
        Some((Self { red }, wide))
    }

    /// Writes `[height, width, 3]` of `[height]` rows of `width` bytes, `step` bytes apart; both sides at least 3.
    pub fn to_rgb(self, mosaic: &[u8], step: usize, (width, height): (usize, usize), rgb: &mut [u8]) {
        let line = 3 * width;
        for y in 1..height - 1 {
            let row = |y: usize| &mosaic[y * step..][..width];
            let rows = [row(y - 1), row(y), row(y + 1)];
            let out = &mut rgb[y * line..][..line];
            let has_red = y % 2 == self.red.1;
            for x in 1..width - 1 {
                out[3 * x..3 * x + 3].copy_from_slice(&self.pixel(rows, x, has_red));
            }
            out.copy_within(3..6, 0);
            out.copy_within(line - 6..line - 3, line - 3);
        }
        rgb.copy_within(line..2 * line, 0);
        rgb.copy_within((height - 2) * line..(height - 1) * line, (height - 1) * line);
    }

    /// Pixel `x` of the middle one of three rows, which has red or blue beside green.
    #[inline(always)]
    fn pixel(self, [above, row, below]: [&[u8]; 3], x: usize, has_red: bool) -> [u8; 3] {
        let mean = |values: [u8; 2]| (values.iter().map(|&v| u16::from(v)).sum::<u16>() + 1) >> 1;
        let mean_of_4 = |values: [u8; 4]| (values.iter().map(|&v| u16::from(v)).sum::<u16>() + 2) >> 2;
        let sides = [row[x - 1], row[x + 1]];
        let ends = [above[x], below[x]];
        let own = u16::from(row[x]);
        let in_column_of_red = x % 2 == self.red.0;
        let (red, green, blue) = match (has_red, in_column_of_red) {
            // Green, with the row's colour beside it and the other one above and below.
            (true, false) => (mean(sides), own, mean(ends)),
            (false, true) => (mean(ends), own, mean(sides)),
            (has_red, _) => {
                let green = mean_of_4([sides[0], sides[1], ends[0], ends[1]]);
                let other = mean_of_4([above[x - 1], above[x + 1], below[x - 1], below[x + 1]]);
                if has_red { (own, green, other) } else { (other, green, own) }
            }
        };
        [red as u8, green as u8, blue as u8]
    }
}
