"""拒绝原因及其解决办法。The same in Chinese; a rule is quoted as the ledger has it: it is part of the contract."""

from __future__ import annotations

from clearline.explain.said import Said
from ledger.reasons import Reason

REASONS: dict[Reason, Said] = {
    Reason.IDEMPOTENCY_CONFLICT: Said(
        ("该幂等键此前已用于另一笔内容不同的请求（{field}：{rule}）。",
         "首个请求位于分区 {partition} 的偏移量 {first_offset}。"),
        ("新的付款请使用新的键；或原样重发首个请求以查看其结果。",),
    ),
    Reason.PARTNER_UNKNOWN: Said(
        ("合作方 {partner} 从未在此环境中获准接入（字段 {field}）。",),
        ("请检查合作方路径的拼写，或请银行准入 {partner}。",),
    ),
    Reason.PRODUCT_UNKNOWN: Said(
        ("在该起息日，货架上没有产品 {product} 的任何版本（字段 {field}）。", "其首个版本自 {effective_from} 起生效。"),
        ("请使用 GET /v1/products 列出的产品。", "或将起息日改为 {effective_from} 或之后。"),
    ),
    Reason.OPERATION_UNKNOWN: Said(
        ("该产品没有名为 {operation} 的操作（字段 {field}）。",),
        ("请使用 GET /v1/products/PRODUCT 列出的操作。",),
    ),
    Reason.PARTNER_SUSPENDED: Said(
        ("合作方 {partner} 已被暂停（{state}），它及其下级均不得开展新业务（字段 {field}）。",),
        ("须由银行恢复 {partner}。在此之前仍可撤销预授权和退款。",),
    ),
    Reason.PARTNER_STATE: Said(
        ("合作方 {partner} 处于 {state} 状态，该状态不允许此操作（字段 {field}）。",),
        ("待银行将 {partner} 转入允许此操作的状态后即可通过，状态表见 docs/operations.md。",),
    ),
    Reason.WORLD_FROZEN: Said(
        ("银行已冻结整个环境（{level}）：除撤销外一律不受理。",),
        ("请等待银行解除冻结，之后用新的键重新发送。",),
    ),
    Reason.PARTNER_FROZEN: Said(
        ("合作方 {partner} 已被银行冻结，它及其下级除撤销外不得提出任何请求（{field}）。",),
        ("须由银行解除 {partner} 的冻结，之后请用新的键重新发送。",),
    ),
    Reason.PRODUCT_FROZEN: Said(
        ("产品 {product} 已被银行冻结：除撤销外一律不受理（字段 {field}）。",),
        ("请改用其他产品，或等待银行解除冻结后用新的键重新发送。",),
    ),
    Reason.FIELD_INVALID: Said(
        ("字段 {field} 违反规则：{rule}。",),
        ("请更正 {field}，并使用新的键重新发送。",),
    ),
    Reason.ROLE_UNKNOWN: Said(
        ("该操作没有角色 {role}（{field}）；它的角色为 {roles}。",),
        ("请只为以下角色指定账户：{roles}。",),
    ),
    Reason.ROLE_MISSING: Said(
        ("角色 {role} 没有指定账户（{field}）；该操作需要 {roles}。",),
        ("请为 {role} 指定账户。",),
    ),
    Reason.CURRENCY_UNKNOWN: Said(
        ("{currency} 不是有效的 ISO 4217 货币代码（字段 {field}）。",),
        ("请使用现行货币的三位大写字母代码，例如 CNY。",),
    ),
    Reason.PRODUCT_CURRENCY: Said(
        ("该产品不支持 {currency}（字段 {field}）；支持的货币为 {allowed}。",),
        ("请使用以下货币之一：{allowed}。",),
    ),
    Reason.EXPONENT_MISMATCH: Said(
        ("请求方认为 {currency} 有 {exponent} 位小数（{field}），实际为 {allowed} 位。",),
        ("请按 {currency} 的 {allowed} 位小数发送最小货币单位的金额，exponent 填 {allowed}。",),
    ),
    Reason.AMOUNT_NOT_POSITIVE: Said(
        ("金额为 {amount!n}（{field}）；金额至少为 1 个最小货币单位。",),
        ("请发送 1 或以上的金额；若要反向转账，请对调付款方与收款方。",),
    ),
    Reason.AMOUNT_TOO_LARGE: Said(
        ("金额超过单笔分录的上限 {limit!n} 个最小货币单位（字段 {field}）。",),
        ("请拆分为多笔，每笔不超过 {limit!n} 个最小货币单位。",),
    ),
    Reason.RATE_INVALID: Said(
        ("汇率不可用（{field}：{rule}）。",),
        ("请发送加引号的正十进制数，例如 \"7.1234\"，且至少能买入 1 个最小货币单位。",),
    ),
    Reason.POSTINGS_COUNT: Said(
        ("该笔记账将有 {count!n} 条分录（{field}）；允许的条数为 {limit}。",),
        ("请拆分为多笔交易，每笔的分录条数为 {limit}。",),
    ),
    Reason.POSTINGS_UNBALANCED: Said(
        ("{currency} 的借贷不平（{field}）：借方 {debits!m}，贷方 {credits!m}。",),
        ("请更正分录，差额为 {difference!m}。",),
    ),
    Reason.NOT_PERMITTED: Said(
        ("请求方无权提出此请求（字段 {field}）。", "规则原文：{rule}。", "请求方为 {partner}。", "涉及账户 {account}。",
         "涉及对象 {subject}。"),
        ("请由银行或有权的合作方提出。",),
    ),
    Reason.ORIGINAL_UNKNOWN: Said(
        ("没有找到 {partner} 名下键为 {original} 的已结算交易（字段 {field}）。",),
        ("请检查该键。超出保留期（默认 30 天）的付款请用转账退回。",),
    ),
    Reason.ORIGINAL_MISMATCH: Said(
        ("键为 {original} 的交易不能作为本次操作的原交易（{field}），规则原文：{rule}。",),
        ("请按规则指定原交易：{rule}。",),
    ),
    Reason.HOLD_EXPIRED: Said(
        ("键为 {original} 的预授权已过期，冻结的资金已释放（字段 {field}）。",),
        ("请重新发起预授权。",),
    ),
    Reason.HOLD_CLOSED: Said(
        ("键为 {original} 的预授权此前已被请款或撤销，没有余额（字段 {field}）。",),
        ("请重新发起预授权。",),
    ),
    Reason.CAPTURE_EXCEEDS_HOLD: Said(
        ("请款金额为 {amount!m}（{field}），而预授权仅余 {remaining!m}。",),
        ("请款金额请不超过 {remaining!m}。",),
    ),
    Reason.REFUND_EXCEEDS_PAYMENT: Said(
        ("要求退回 {amount!m}。", "原付款可退余额为 {remaining!m}（字段 {field}）。"),
        ("退款金额请不超过 {remaining!m}。",),
    ),
    Reason.ACCOUNT_UNKNOWN: Said(
        ("账户 {account} 不存在（字段 {field}）。",),
        ("请检查账户号，或先开立该账户。",),
    ),
    Reason.ACCOUNT_NOT_OWNED: Said(
        ("{partner} 不得在该方向使用账户 {account}（{field}）。",),
        ("请以账户所有者的名义提出，或使用 {partner} 自己的账户。",),
    ),
    Reason.OWNER_STATE: Said(
        ("账户 {account} 的所有者目前不能进行此操作：{partner} 处于 {state} 状态（{field}）。",),
        ("待 {partner} 转入允许的状态后即可通过；状态由银行变更。",),
    ),
    Reason.OWNER_FROZEN: Said(
        ("账户 {account} 所属合作方的资金已被银行冻结：被冻结的是 {partner}（{field}）。",),
        ("须由银行解除 {partner} 的冻结，之后请用新的键重新发送。",),
    ),
    Reason.ACCOUNT_CLOSED: Said(
        ("账户 {account} 已永久销户（字段 {field}）。",),
        ("请使用其他账户。",),
    ),
    Reason.ACCOUNT_FROZEN: Said(
        ("账户 {account} 已被冻结，不得记账（字段 {field}）。",),
        ("须由银行解除 {account} 的冻结，之后请用新的键重新发送。",),
    ),
    Reason.ACCOUNT_CURRENCY: Said(
        ("账户 {account} 的货币为 {account_currency}，而分录为 {currency}（{field}）。", "规则原文：{rule}。"),
        ("请使用 {currency} 账户，或进行兑换。",),
    ),
    Reason.DEBITS_BLOCKED: Said(
        ("账户 {account} 禁止借记（字段 {field}）。",),
        ("须由银行解除 {account} 的借记限制。",),
    ),
    Reason.CREDITS_BLOCKED: Said(
        ("账户 {account} 禁止贷记（字段 {field}）。",),
        ("须由银行解除 {account} 的贷记限制。",),
    ),
    Reason.SAME_ACCOUNT: Said(
        ("付款与收款为同一账户 {account}（{field}）。",),
        ("请指定两个不同的账户。",),
    ),
    Reason.SPLIT_EXCEEDS_AMOUNT: Said(
        ("费用与分账合计 {parts!m}，超过被拆分的金额 {amount!m}（{field}）。",),
        ("请将金额提高到至少 {parts!m}，或减少分账。",),
    ),
    Reason.NOTHING_TO_MOVE: Said(
        ("没有可记账的金额（{field}），规则原文：{rule}。",),
        ("无需处理：相关余额已为零。",),
    ),
    Reason.INSUFFICIENT_FUNDS: Said(
        ("账户 {account} 的余额将低于其须保留的金额（{level}：{limit}）。",
         "其可用余额为 {available!m}，至少须保留 {allowed!m}。",
         "本次之后将剩 {left!m}，差 {short!m}。"),
        ("请转入至少 {short!m}，或将金额减少 {short!m}。", "请 {others} 的所有者转入资金，或减少金额。"),
    ),
    Reason.COUNTER_OVERFLOW: Said(
        ("计数器将超过上限 {limit!n} 个最小货币单位（{field}）。", "涉及账户 {account}。"),
        ("请使用其他账户。",),
    ),
    Reason.LIMIT_EXCEEDED: Said(
        ("将超过 {level} {subject} 的限额（{field}）：{limit} 上限为 {allowed}，已用 {used}，本次请求 {asked}。",
         "将超过 {level} {above} 的限额（{field}）：{limit}；本次请求 {asked}。",
         "计入货币 {currency}。"),
        ("目前最多还可通过 {remaining}。",
         "请等待下一个 {window} 窗口开始，或请设定者提高 {subject} 的限额。",
         "请拆分付款，或请设定者提高 {each} 的限额。",
         "{elsewhere} 的限额只涉及其他货币：请使用其中之一，或请求变更限额。",
         "请减少金额、稍后再试，或请设定者提高 {above} 的限额。"),
    ),
    Reason.ACCOUNT_EXISTS: Said(
        ("账户 {account} 已开立（字段 {field}）。",),
        ("无需处理，或另取名称。",),
    ),
    Reason.ACCOUNT_NOT_EMPTY: Said(
        ("账户 {account} 未清空，或仍有冻结资金（{field}）。", "可用余额为 {available!m}。"),
        ("请先转出余额并撤销其预授权。",),
    ),
    Reason.PARTNER_EXISTS: Said(
        ("合作方 {partner} 已获准接入（字段 {field}）。",),
        ("无需处理，或另取名称。",),
    ),
    Reason.PARENT_UNKNOWN: Said(
        ("路径中的上级 {partner} 从未获准接入或已退出（字段 {field}）。",),
        ("请先准入 {partner}：须自根向下逐级准入。",),
    ),
    Reason.STATE_UNKNOWN: Said(
        ("没有这个状态，或不能以该状态准入（{field}），规则原文：{rule}。",),
        ("请使用以下之一：{rule}。",),
    ),
    Reason.STATE_TRANSITION: Said(
        ("{partner} 处于 {state} 状态（{field}）。", "只能转为：{rule}。"),
        ("请按 docs/operations.md 的状态表逐步变更。",),
    ),
    Reason.PARTNER_NOT_EMPTY: Said(
        ("尚有未清事项，不能退出（字段 {field}）。", "账户 {account} 未清空。", "其下级 {partner} 尚未退出。"),
        ("请先清空 {account}。", "请先让 {partner} 退出。"),
    ),
    Reason.PRODUCT_VERSION: Said(
        ("版本 {version} 不高于现有最高版本 {highest}（{field}）。",),
        ("请以 {next} 或更高的版本号发布。",),
    ),
    Reason.PRODUCT_INVALID: Said(
        ("产品的 {field} 在 {path} 处违反规则：{rule}。",),
        ("请更正 {path}；`clearline product test FILE` 会显示行号与规则。",),
    ),
    Reason.TEMPLATE_UNBALANCED: Said(
        ("产品的 {field} 在 {path} 处有一步无法平衡：{rule}。",),
        ("请使该步骤恰有一个目标取剩余金额。",),
    ),
    Reason.DAY_CLOSED: Said(
        ("{day} 已日终（{field}）；截至 {closed_through} 的各日均已日终。",),
        ("无需处理；迟到的交易记入下一个开放日。",),
    ),
    Reason.DAY_AHEAD: Said(
        ("{day} 尚未开始（{field}）；按结算日历今天是 {today}。",),
        ("请在 {day} 当日或之后日终。",),
    ),
    Reason.CROSSING_UNKNOWN: Said(
        ("没有跨分区交易在等待这一步骤（{field}：{rule}）。",),
        ("无需处理：此前已有定论。",),
    ),
    Reason.DAY_OPEN: Said(
        ("{day} 在本分区尚未日终（{field}）。",),
        ("请先日终：`clearline close {day}`。",),
    ),
    Reason.DAY_SEALED: Said(
        ("{day} 已封存（{field}），摘要为 {hash}。",),
        ("无需处理；`clearline close --verify {day}` 可重新核算。",),
    ),
}  # fmt: skip
