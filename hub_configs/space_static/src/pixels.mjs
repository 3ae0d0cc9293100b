// Images to the model's input, as the image processor does it: resized by cubic interpolation that averages where it
// shrinks (as PIL and torchvision with antialias), scaled to 0..1, normalised.

const CUBIC = -0.5; // the parameter a of the kernel, PIL's

function kernel(distance) {
  const x = Math.abs(distance);
  if (x < 1) return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1;
  if (x < 2) return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC;
  return 0;
}

/** For each place of the resized line: the first pixel that takes part, and the weights from there on; they sum to 1. */
function weightsOf(length, newLength) {
  const scale = length / newLength;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: newLength }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(Math.floor(center - 2 * stretch + 0.5), 0);
    const end = Math.min(Math.floor(center + 2 * stretch + 0.5), length);
    const weights = Array.from({ length: end - first }, (_, index) => kernel((first + index - center + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/**
 * Resize one axis of RGBA pixels; `line` pixels apart are neighbours along the axis, `across` apart the next line.
 * The result has the same layout as the input, with `newLength` instead of `length`.
 */
function resizeAxis(pixels, length, newLength, others, horizontal) {
  const result = new Uint8ClampedArray(newLength * others * 4); // rounds and clamps, as between PIL's two passes
  const table = weightsOf(length, newLength);
  for (let other = 0; other < others; other++) {
    for (let place = 0; place < newLength; place++) {
      const { first, weights } = table[place];
      const target = 4 * (horizontal ? other * newLength + place : place * others + other);
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        for (let index = 0; index < weights.length; index++) {
          const along = first + index;
          sum += weights[index] * pixels[4 * (horizontal ? other * length + along : along * others + other) + channel];
        }
        result[target + channel] = sum;
      }
    }
  }
  return result;
}

/**
 * The model's input of an image.
 * @param {Uint8ClampedArray} pixels RGBA, row by row
 * @param {object} settings content of preprocessor_config.json
 * @returns {Float32Array} (3, height, width), normalised
 */
export function pixelValues(pixels, width, height, settings) {
  const size = settings.size;
  const wide = resizeAxis(pixels, width, size.width, height, true);
  const resized = resizeAxis(wide, height, size.height, size.width, false);
  const area = size.height * size.width;
  const values = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    for (let place = 0; place < area; place++) {
      const value = resized[4 * place + channel] * settings.rescale_factor;
      values[channel * area + place] = (value - settings.image_mean[channel]) / settings.image_std[channel];
    }
  }
  return values;
}

/** Pixels of an image file, upright and over black where it is transparent, as the index reads it. */
export async function decode(file) {
  const image = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d", { alpha: false });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}
