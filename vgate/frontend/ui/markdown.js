// The Markdown that models write, as elements: paragraphs, headings, lists, quotes, tables, code,
// bold, italics. Links are shown with their address and lead nowhere by themselves.

import { copyButton, h } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}(?!.*`)|~{3,})\s*([\w+#.-]*)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const INLINE = /(?<!`)(`{1,3})(?!`)(.+?)(?<!`)\1(?!`)|\*\*(?=\S)(.+?\S?)\*\*|(?<![*\w])\*(?=\S)([^*]*?\S)\*(?!\*)|~~(.+?)~~|!?\[([^\]]*)\]\((\S+?)\)/s;
const MAX_DEPTH = 8;
// Looking for marks takes the square of the length, and no paragraph that people read is as long.
const MAX_MARKED = 4000;

/** Show text in an element. Called again with more text, it changes only the blocks that differ. */
export function showMarkdown(element, text, depth = 0) {
  const blocks = blocksOf(text);
  const shown = (element.blocks_ ??= []);
  blocks.forEach((block, index) => {
    if (shown[index] === block) return;
    const made = blockElement(block, depth);
    if (index < shown.length) element.children[index].replaceWith(made);
    else element.append(made);
    shown[index] = block;
  });
  while (element.children.length > blocks.length) element.lastChild.remove();
  shown.length = blocks.length;
}

/** Cut text into blocks: code between fences stays whole, the rest ends at an empty line. */
export function blocksOf(text) {
  const blocks = [];
  let block = [];
  let fence = null;
  const end = () => { if (block.some((line) => line.trim())) blocks.push(block.join("\n")); block = []; };
  for (const line of text.split("\n")) {
    const found = FENCE.exec(line);
    if (fence) {
      block.push(line);
      if (found && found[1][0] === fence[0] && found[1].length >= fence.length && !found[2]) { fence = null; end(); }
    } else if (found) {
      end();
      fence = found[1];
      block.push(line);
    } else if (!line.trim()) {
      // A list goes on over empty lines if what follows is indented or an item: decided below.
      if (ITEM.test(block[0] ?? "")) block.push(line);
      else end();
    } else {
      const isList = ITEM.test(block[0] ?? "");
      const afterGap = block.length && !block.at(-1).trim();
      const begins = /^#{1,6}\s/.test(line) || RULE.test(line) || (isList && afterGap && !ITEM.test(line) && !/^\s/.test(line)) || (!isList && ITEM.test(line));
      if (begins) end();
      block.push(line);
      if (/^#{1,6}\s/.test(line)) end();
    }
  }
  end();
  return blocks;
}

function blockElement(block, depth) {
  const lines = block.split("\n");
  const fence = FENCE.exec(lines[0]);
  if (fence) return codeElement(lines, fence);
  const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(lines[0]);
  if (heading) return h(`h${Math.min(heading[1].length + 2, 6)}`, {}, inline(heading[2]));
  if (RULE.test(block)) return h("hr");
  if (depth < MAX_DEPTH && lines.every((line) => line.startsWith(">"))) {
    const quote = h("blockquote");
    showMarkdown(quote, lines.map((line) => line.replace(/^> ?/, "")).join("\n"), depth + 1);
    return quote;
  }
  if (ITEM.test(lines[0])) return listElement(lines, 0);
  if (lines.length > 1 && lines[0].includes("|") && /^[\s|:-]+$/.test(lines[1]) && lines[1].includes("-")) return tableElement(lines);
  return h("p", {}, lines.flatMap((line, index) => (index ? [line.endsWith("  ") ? h("br") : "\n", ...inline(line)] : inline(line))));
}

function codeElement(lines, fence) {
  const isClosed = lines.length > 1 && lines.at(-1).trim().startsWith(fence[1]);
  const code = lines.slice(1, isClosed ? -1 : undefined).join("\n");
  return h("div", { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, fence[2]), copyButton(() => code)),
    h("pre", { tabindex: "0" }, h("code", {}, code)));
}

function listElement(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= indent.length + 1) items.push([found[3]]);
    else items.at(-1).push(line);
  }
  const list = /\d/.test(mark) ? h("ol", { start: parseInt(mark, 10) }) : h("ul");
  for (const [first, ...rest] of items) {
    const nested = depth < MAX_DEPTH ? rest.findIndex((line) => ITEM.test(line)) : -1;
    const own = nested < 0 ? rest : rest.slice(0, nested);
    const item = h("li", {}, inline([first, ...own].join("\n").trim()));
    if (nested >= 0) item.append(listElement(rest.slice(nested), depth + 1));
    list.append(item);
  }
  return list;
}

function tableElement(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  return h("div", { class: "scroll", tabindex: "0" }, h("table", {},
    h("thead", {}, h("tr", {}, cells(lines[0]).map((cell) => h("th", {}, inline(cell))))),
    h("tbody", {}, lines.slice(2).map((line) => h("tr", {}, cells(line).map((cell) => h("td", {}, inline(cell))))))));
}

/** Return the nodes of a line: text, and elements for what is marked. */
function inline(text, depth = 0) {
  const nodes = [];
  let rest = text;
  for (let found; depth < MAX_DEPTH && text.length < MAX_MARKED && (found = INLINE.exec(rest)); ) {
    if (found.index) nodes.push(rest.slice(0, found.index));
    nodes.push(marked(found, depth));
    rest = rest.slice(found.index + found[0].length);
  }
  if (rest) nodes.push(rest);
  return nodes;
}

/** Return the node of a mark that `INLINE` has found. */
function marked([whole, , code, bold, italic, struck, label, address], depth) {
  if (code !== undefined) return h("code", {}, code.trim() || code);
  if (bold !== undefined) return h("strong", {}, inline(bold, depth + 1));
  if (italic !== undefined) return h("em", {}, inline(italic, depth + 1));
  if (struck !== undefined) return h("s", {}, inline(struck, depth + 1));
  return /^https?:\/\//i.test(address) ? link(label || address, address) : whole;
}

function link(label, address) {
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow", title: address }, label);
}
