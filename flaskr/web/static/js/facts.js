/** What a file is or shall be, in words: "MP3, 192 kbit/s, 44.1 kHz, stereo, 3:06". */

import { clock, number } from "./dom.js";
import { t } from "./texts.js";

/** facts: a task's `result` or `source`, or a plan. title: the format's name, where known. */
export function described(facts, title = "") {
  return [
    title || facts.codec,
    facts.bitrateKbps && `${number(facts.bitrateKbps)} kbit/s`,
    facts.quality !== undefined && facts.quality !== null && t("askedQuality", { value: number(facts.quality, 1) }),
    facts.sampleRateHz && `${number(facts.sampleRateHz / 1000, 3)} kHz`,
    facts.bitDepth && t("bits", { bits: facts.bitDepth }),
    facts.channels && channels(facts.channels),
    facts.durationSeconds !== undefined && facts.durationSeconds !== null && clock(facts.durationSeconds),
  ].filter(Boolean).join(", ");
}

/** What was asked for. */
export function asked(title, options) {
  const o = options;
  const cut = o.endSeconds !== undefined
    ? o.startSeconds ? t("askedPart", { start: number(o.startSeconds, 3), end: number(o.endSeconds, 3) })
      : t("askedTo", { end: number(o.endSeconds, 3) })
    : o.startSeconds ? t("askedFrom", { start: number(o.startSeconds, 3) }) : "";
  return [
    described(o, title), cut,
    o.fadeInSeconds && t("askedFadeIn", { seconds: number(o.fadeInSeconds, 3) }),
    o.fadeOutSeconds && t("askedFadeOut", { seconds: number(o.fadeOutSeconds, 3) }),
    o.loudnessLufs !== undefined && `${number(o.loudnessLufs, 1)} LUFS`,
    o.keepMetadata === false && t("noTags"),
    o.keepCover === false && t("noCover"),
  ].filter(Boolean).join(", ");
}

function channels(count) {
  return count === 1 ? t("mono") : count === 2 ? t("stereo") : t("channelCount", { count });
}
