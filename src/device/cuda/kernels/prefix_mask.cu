// Which tokens of the prefix are real: those of each image that is there, then the prompt's.

extern "C" __global__ void NAME(const u8 *images, int image_count, int image_tokens, const u8 *tokens, int token_count, u8 *out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, of_images = image_count * image_tokens;
    if (i < of_images) out[i] = images[i / image_tokens];
    else if (i < of_images + token_count) out[i] = tokens[i - of_images];
}
