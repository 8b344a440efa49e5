// From uint8 pixels to probability in onnxruntime-web (WebAssembly), without Python:
//   node probability.mjs model.onnx pixels.raw
// pixels.raw holds patches one after the other, each S x S x 3 bytes: rows from the top, red, green, blue.
//   python -c "from PIL import Image; open('pixels.raw', 'wb').write(Image.open('a.png').convert('RGB').tobytes())"
// In a browser the bytes come from a canvas (drop its alpha channel); the rest is the same.
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";

const [model, file] = process.argv.slice(2);
ort.env.wasm.numThreads = 1; // more of them need a page that is isolated from other origins
// Level 3, errors: at load onnxruntime warns that `views` may be overridden, which JavaScript can't do anyway.
const session = await ort.InferenceSession.create(model, { logSeverityLevel: 3 });

const [, side] = session.inputMetadata[0].shape; // [N, S, S, 3]
const pixels = new Uint8Array(await readFile(file));
const count = pixels.length / (side * side * 3);
if (!Number.isInteger(count)) throw new Error(`${file}: not a whole number of ${side} x ${side} patches`);

const patches = new ort.Tensor("uint8", pixels, [count, side, side, 3]);
const { probability, view_probability } = await session.run({ patches });
for (const [name, tensor] of Object.entries({ probability, view_probability }))
  console.log(JSON.stringify({ name, dims: tensor.dims, data: Array.from(tensor.data) }));
