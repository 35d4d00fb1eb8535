// Every word of the page, in the two languages it speaks.

export const TEXTS = {
  zh: {
    tagline: "用一句话或一张图找到图片",
    queryLabel: "想找什么图片",
    placeholder: "想找什么图片？",
    go: "搜索",
    clear: "清空",
    choosePicture: "用图片搜索",
    drop: "放开，就按这张图找",
    examples: "试试这些",
    suggestions: "搜索建议",
    suggested: { caption: "说明", tag: "标签", tags: "标签", name: "名称" },
    results: "搜索结果",
    more: "更多结果",
    retry: "再试一次",
    docs: "接口文档",
    signOut: "忘记密钥",
    keys: "回车搜索 · -词 排除 · 可拖入或粘贴图片 · 方向键选图 · Esc 返回 · / 回到搜索框",
    previous: "上一张",
    next: "下一张",
    close: "关闭",
    original: "打开原图",
    moreLike: "找相似的",
    lessLike: "不要这样的",
    moreNames: "其他语言",
    missing: "图片不见了",
    searching: "正在找…",
    stopped: "已停止",
    busy: (seconds) => `服务正忙，${seconds} 秒后自动再试…`,
    found: (query, shown, total, ms) => `${query}：${total} 张图里最接近的 ${shown} 张 · ${ms} 毫秒`,
    quoted: (words) => `“${words}”`,
    category: (label, share) => `类别：${label}（${share}）`,
    filtered: "已筛选",
    score: "相似度",
    scoreHint: "查询与图片的余弦相似度，从 −1 到 1，越高越接近",
    likely: (share) => `把握 ${share}`,
    emptyTitle: "图库还是空的",
    emptyText: "先用 clip-text index 把图片编入索引，再来搜索。",
    nobodyTitle: "没有符合筛选的图片",
    nobodyText: "去掉几个筛选条件再看看。",
    clearFilters: "清除筛选",
    nothingTitle: "没有匹配的图片",
    nothingText: "图库里大概没有你要找的。换个说法试试，或者看看最接近的。",
    nearest: (count) => `看看最接近的 ${count} 张`,
    terms: "搜索条件",
    term: {
      like: (name) => `像“${name}”`,
      row: (row) => `像第 ${row} 号`,
      picture: (name) => name || "上传的图片",
      lost: "上传的图片",
    },
    except: "不要",
    remove: (name) => `去掉：${name}`,
    exclude: (name) => `改为排除：${name}`,
    include: (name) => `改为要找：${name}`,
    pictures: (count) => `${count} 张图片`,
    lost: "上传的图片不会存进网址：请把它再放进来一次。",
    filters: "筛选",
    filtersCount: (count) => `筛选（${count}）`,
    from: "从",
    to: "到",
    noFacets: "没有可以筛选的内容",
    moreValues: "更多",
    collection: "图库",
    keyTitle: "这里需要密钥",
    keyText: "请输入管理员给你的密钥。浏览器只为这个页面记住它，只能用来搜索。",
    keyLabel: "密钥",
    keyGo: "进入",
    keyWrong: "这个密钥不对，或者已经过期。",
    errors: {
      network: ["连不上搜索服务", "看看它是否还在运行，然后再试一次。"],
      query_too_long: ["这段话太长了", "请用不超过 1000 个字来描述图片。"],
      invalid_query: ["看不懂这次搜索", "换个说法试试。"],
      invalid_request: ["看不懂这次搜索", "换个说法试试。"],
      collection_not_found: ["没有这个图库", "从右上方另选一个。"],
      index_mismatch: ["索引换了模型", "请用建索引的那个模型重新启动服务。"],
      index_locked: ["图库正在更新", "稍等一会儿再试。"],
      index_unavailable: ["现在读不到索引", "请重新编入图片，或者看看服务的日志。"],
      overloaded: ["服务正忙", "同时搜索的人太多，请稍后再试。"],
      too_many_requests: ["搜得太快了", "请稍等一会儿再试。"],
      forbidden: ["这个密钥不能用来搜索", "请向管理员要一个可以搜索的密钥。"],
      picture_unreadable: ["读不懂这张图片", "文件也许损坏了，或者格式不常见；换一张试试。"],
      picture_too_large: ["这张图片太大了", "请换一张小一些的。"],
      request_too_large: ["图片太大了", "请换小一些的，或者少放几张。"],
      not_found: ["这个服务不能用图片搜索", "去掉图片，用文字找。"],
      no_picture: ["这不是图片", "请放入图片文件。"],
      other: ["出了点问题", "这不是你的错，请稍后再试。"],
    },
    facts: {
      source: "来源", author: "作者", licence: "许可", license: "许可", group: "分组", image_id: "编号", emoji: "表情",
      tags: "标签", folder: "文件夹", date: "日期", width: "宽（像素）", height: "高（像素）", year: "年份",
    },
  },
  en: {
    tagline: "Find pictures with a sentence or a picture",
    queryLabel: "What are you looking for",
    placeholder: "What are you looking for?",
    go: "Search",
    clear: "Clear",
    choosePicture: "Search by picture",
    drop: "Let go to search by this picture",
    examples: "Try these",
    suggestions: "Suggestions",
    suggested: { caption: "caption", tag: "tag", tags: "tag", name: "name" },
    results: "Results",
    more: "More results",
    retry: "Try again",
    docs: "API documentation",
    signOut: "Forget the key",
    keys: "Enter searches · -word excludes · drop or paste a picture · arrow keys choose · Esc goes back · / returns to the box",
    previous: "Previous picture",
    next: "Next picture",
    close: "Close",
    original: "Open the original",
    moreLike: "More like this",
    lessLike: "Not like this",
    moreNames: "Other languages",
    missing: "This picture is gone",
    searching: "Searching…",
    stopped: "Stopped",
    busy: (seconds) => `The service is busy; trying again in ${seconds} s…`,
    found: (query, shown, total, ms) => `${query}: the closest ${shown} of ${total} pictures · ${ms} ms`,
    quoted: (words) => `“${words}”`,
    category: (label, share) => `category: ${label} (${share})`,
    filtered: "filtered",
    score: "similarity",
    scoreHint: "Cosine of query and picture, from −1 to 1; higher is closer",
    likely: (share) => `${share} likely`,
    emptyTitle: "No pictures yet",
    emptyText: "Index some with clip-text index, then search again.",
    nobodyTitle: "No picture passes the filters",
    nobodyText: "Take some of them away.",
    clearFilters: "Clear the filters",
    nothingTitle: "Nothing matches",
    nothingText: "What you look for is probably not here. Try other words, or look at the nearest.",
    nearest: (count) => `Show the nearest ${count}`,
    terms: "What is looked for",
    term: {
      like: (name) => `like “${name}”`,
      row: (row) => `like no. ${row}`,
      picture: (name) => name || "your picture",
      lost: "your picture",
    },
    except: "not",
    remove: (name) => `Remove: ${name}`,
    exclude: (name) => `Exclude instead: ${name}`,
    include: (name) => `Look for instead: ${name}`,
    pictures: (count) => (count === 1 ? "1 picture" : `${count} pictures`),
    lost: "A picture of yours is not kept in the address: please drop it here again.",
    filters: "Filters",
    filtersCount: (count) => `Filters (${count})`,
    from: "from",
    to: "to",
    noFacets: "There is nothing to filter by",
    moreValues: "More: ",
    collection: "Collection",
    keyTitle: "A key is needed here",
    keyText: "Enter the key that you were given. The browser keeps it for this page alone, and only for searching.",
    keyLabel: "Key",
    keyGo: "Enter",
    keyWrong: "This key is wrong, or has expired.",
    errors: {
      network: ["The search service cannot be reached", "Check that it is still running, then try again."],
      query_too_long: ["That is too long", "Please describe the picture in at most 1,000 characters."],
      invalid_query: ["This search makes no sense to the service", "Try other words."],
      invalid_request: ["This search makes no sense to the service", "Try other words."],
      collection_not_found: ["There is no such collection", "Choose another one."],
      index_mismatch: ["The index belongs to another model", "Restart the service with the model that built it."],
      index_locked: ["The pictures are being updated", "Try again in a moment."],
      index_unavailable: ["The index cannot be read", "Index the pictures again, or look into the service's log."],
      overloaded: ["The service is busy", "Too many people are searching; please try again in a moment."],
      too_many_requests: ["That was too quick", "Please wait a moment, then try again."],
      forbidden: ["This key may not search", "Ask for one that may."],
      picture_unreadable: ["This picture cannot be read", "It may be damaged, or of a rare format; try another one."],
      picture_too_large: ["This picture is too large", "Try a smaller one."],
      request_too_large: ["The pictures are too large", "Try smaller ones, or fewer."],
      not_found: ["This service cannot search by picture", "Take the picture away and use words."],
      no_picture: ["That is no picture", "Please drop picture files."],
      other: ["Something went wrong", "It is not your fault; please try again later."],
    },
    facts: {
      source: "Source", author: "Author", licence: "Licence", license: "Licence", group: "Group", image_id: "ID", emoji: "Emoji",
      tags: "Tags", folder: "Folder", date: "Date", width: "Width (pixels)", height: "Height (pixels)", year: "Year",
    },
  },
};

const spoken = (navigator.language || "zh").toLowerCase();
export const language = spoken.startsWith("zh") ? "zh" : "en";
export const text = TEXTS[language];
// Which of a picture's names to show: people who read traditional characters get those.
export const nameKeys = /^zh-(hant|tw|hk|mo)/.test(spoken)
  ? ["zh-hant", "zh"]
  : [spoken, spoken.split("-")[0], language];

export const EXAMPLES = ["狗", "草莓蛋糕", "下雨", "红色的心", "a birthday party", "富士山"];

export function count(number) {
  return number.toLocaleString(language);
}

export function percent(share) {
  return share.toLocaleString(language, { style: "percent" });
}

export function clip(words, length) {
  const letters = [...words];
  return letters.length > length ? `${letters.slice(0, length).join("")}…` : words;
}

// Puts the words into the page as it was sent.
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text[element.dataset.text];
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text[element.dataset.label]);
    if (element.dataset.title !== undefined) element.title = text[element.dataset.label];
  }
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = text[element.dataset.placeholder];
  }
}
