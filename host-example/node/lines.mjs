import { StringDecoder } from "node:string_decoder";

/** Cuts a byte stream into lines, in linear time, and keeps characters whole that a chunk border splits. */
export class LineSplitter {
  #decoder = new StringDecoder("utf8");
  #parts = []; // pieces of the line that has no end yet

  /** @returns the lines that this chunk completes, without their newlines */
  push(chunk) {
    const pieces = this.#decoder.write(chunk).split("\n");
    const rest = pieces.pop();
    if (pieces.length > 0) {
      pieces[0] = this.#parts.join("") + pieces[0];
      this.#parts = [];
    }
    if (rest !== "") this.#parts.push(rest);
    return pieces;
  }
}
