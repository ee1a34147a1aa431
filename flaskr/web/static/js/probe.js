/**
 * What a file is, from its first bytes: enough for the API to foretell a conversion before anything is sent.
 *
 * Returns the fields of a probe (container, codec, sampleRateHz, channels, bitDepth, durationSeconds, bitrateKbps), or
 * null for what it does not know. It only informs: what a file really is, the worker decides.
 */

const HEAD = 256 * 1024;
const MP3_RATES = { 3: [44100, 48000, 32000], 2: [22050, 24000, 16000], 0: [11025, 12000, 8000] };
const MP3_KBPS = {
  3: [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
  2: [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
};

export async function probe(file) {
  let skipped = 0;
  let bytes = await slice(file, 0);
  if (bytes.length > 10 && ascii(bytes, 0, 3) === "ID3") {
    // The tag's length has 7 bits in each of 4 bytes; a cover can make it long.
    skipped = 10 + ((bytes[6] << 21) | (bytes[7] << 14) | (bytes[8] << 7) | bytes[9]);
    bytes = await slice(file, skipped);
  }
  const view = new DataView(bytes.buffer);
  try {
    return wav(bytes, view, file) ?? flac(bytes, view) ?? ogg(bytes, view) ?? mp3(bytes, file.size - skipped);
  } catch (error) {
    if (error instanceof RangeError) return null; // ends in the middle of its head
    throw error;
  }
}

async function slice(file, start) {
  return new Uint8Array(await file.slice(start, start + HEAD).arrayBuffer());
}

function ascii(bytes, at, length) {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

function wav(bytes, view, file) {
  if (ascii(bytes, 0, 4) !== "RIFF" || ascii(bytes, 8, 4) !== "WAVE") return null;
  let found = null;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    const name = ascii(bytes, at, 4);
    if (name === "fmt ") {
      let kind = view.getUint16(at + 8, true);
      if (kind === 0xfffe) kind = view.getUint16(at + 32, true);
      const bits = view.getUint16(at + 22, true);
      if (kind !== 1 && !(kind === 3 && bits === 32)) return null;
      found = {
        container: "wav", codec: kind === 3 ? "pcm_f32le" : bits === 8 ? "pcm_u8" : `pcm_s${bits}le`,
        channels: view.getUint16(at + 10, true), sampleRateHz: view.getUint32(at + 12, true), bitDepth: bits,
        floatSamples: kind === 3, byteRate: view.getUint32(at + 16, true),
      };
    } else if (name === "data" && found) {
      const { byteRate, ...facts } = found;
      return { ...facts, durationSeconds: Math.min(length, file.size - at - 8) / byteRate };
    }
    at += 8 + length + (length % 2);
  }
  return null;
}

function flac(bytes, view) {
  if (ascii(bytes, 0, 4) !== "fLaC") return null;
  const packed = view.getUint32(18); // 20 bits rate, 3 bits channels - 1, 5 bits depth - 1, 4 bits of the length
  const rate = packed >>> 12;
  const total = (packed & 15) * 2 ** 32 + view.getUint32(22);
  return {
    container: "flac", codec: "flac", sampleRateHz: rate, channels: ((packed >>> 9) & 7) + 1,
    bitDepth: ((packed >>> 4) & 31) + 1, ...(total ? { durationSeconds: total / rate } : {}),
  };
}

function ogg(bytes, view) {
  if (ascii(bytes, 0, 4) !== "OggS") return null;
  const at = 27 + bytes[26];
  if (ascii(bytes, at, 8) === "OpusHead") {
    return { container: "ogg", codec: "opus", channels: bytes[at + 9], sampleRateHz: 48000 };
  }
  if (ascii(bytes, at + 1, 6) !== "vorbis") return null;
  return { container: "ogg", codec: "vorbis", channels: bytes[at + 11], sampleRateHz: view.getUint32(at + 12, true) };
}

function mp3(bytes, audioBytes) {
  const at = bytes.findIndex((byte, index) => byte === 0xff && frame(bytes, index) && follows(bytes, index));
  if (at < 0 || at > 65536) return null;
  const { rate, kbps, channels, samples } = frame(bytes, at);
  const facts = { container: "mp3", codec: "mp3", sampleRateHz: rate, channels };
  const mark = ["Xing", "Info"].map((name) => ascii(bytes, at, 200).indexOf(name)).find((found) => found > 0);
  if (mark !== undefined) {
    // The encoder's own count of frames; the first frame carries it and no sound, and its bit rate says nothing.
    const view = new DataView(bytes.buffer, at + mark);
    if (view.getUint32(4) & 1) facts.durationSeconds = (view.getUint32(8) * samples) / rate;
  } else if (!ascii(bytes, at, 200).includes("VBRI")) {
    facts.durationSeconds = (audioBytes - at) / (kbps * 125);
  }
  return facts;
}

function follows(bytes, at) {
  const next = at + frame(bytes, at).length;
  return next < bytes.length && frame(bytes, next) !== null;
}

function frame(bytes, at) {
  const version = (bytes[at + 1] >> 3) & 3;
  if ((bytes[at + 1] & 0xe6) !== 0xe2 || version === 1) return null; // layer III only
  const rate = MP3_RATES[version][(bytes[at + 2] >> 2) & 3];
  const kbps = MP3_KBPS[version === 3 ? 3 : 2][bytes[at + 2] >> 4];
  if (!rate || !kbps) return null;
  const length = Math.floor(((version === 3 ? 144_000 : 72_000) * kbps) / rate) + ((bytes[at + 2] >> 1) & 1);
  const samples = version === 3 ? 1152 : 576;
  return { rate, kbps, length, samples, channels: bytes[at + 3] >> 6 === 3 ? 1 : 2 };
}
