// Ring of processing elements: Montgomery products of run-time length, always full.
//
//   result = a * b / R  mod N~,   R = 2^(V * Elements * passes)
//
// A word is one digit of V = WordBits bits (residue_pe), with Karatsuba two digits, V = 2 * WordBits
// (residue_pe_karatsuba); k, words_i and MaxWords count words.
//
// One pass is a slot group of S = slots_i cycles, S >= max(k + 1, Elements); it takes `Elements`
// words of b. What leaves the last element goes back to the first one until the product has had
// passes_i passes, then through the normaliser. Any number of products is in flight; requests that
// follow each other keep every slot occupied.
//
// Operands: m_fetch_* names a pass. FetchLatency + j cycles later the user presents words a_j and
//   m_j, j = 0 .. k-1 (later words are ignored), and FetchLatency + p cycles later word
//   pass * Elements + p of b, p = 0 .. Elements - 1, zero from word k on.
// Results: k words one a cycle, least significant first, no back-pressure.
//
// Ranges:     a, b < 2*N~; M = (N~ + 1) / 2^V; 4*N~ < 2^(V*k); k <= MaxWords; result < 2*N~.
// Latency:    independent of data; passes * (L*Elements + FetchLatency + about 10) if alone,
//             L = 15, with Karatsuba 24.
// Throughput: one product in passes * S cycles.
// Cost:       12 DSP48 an element, with Karatsuba 36 DSP48E2; see `residue rtl-report`.
// words_i, slots_i, passes_i may change while idle_o. Reset clears control only. clear_i, held while
// idle_o for at least MaxWords + FetchLatency + 4 cycles rounded up to a power of two, zeroes what
// is stored between passes.
`default_nettype none

module residue_ring #(
    parameter int unsigned WordBits = 51,
    parameter bit Karatsuba = 1'b0,
    parameter int unsigned Elements = 21,
    parameter int unsigned MaxWords = 82,
    parameter int unsigned TagBits = 8,
    parameter int unsigned FetchLatency = 4,
    localparam int unsigned Digits = Karatsuba ? 2 : 1,
    localparam int unsigned V = Digits * WordBits
) (
    input  wire                clk,
    input  wire                rst_n,
    input  wire                clear_i,
    input  wire  [        7:0] words_i,        // k
    input  wire  [        7:0] slots_i,        // S
    input  wire  [        7:0] passes_i,
    input  wire                s_req_valid,    // one product
    output logic               s_req_ready,
    input  wire  [TagBits-1:0] s_req_tag,
    output logic               m_fetch_valid,
    output logic [TagBits-1:0] m_fetch_tag,
    output logic [        7:0] m_fetch_pass,
    input  wire  [      V-1:0] s_a_i,
    input  wire  [      V-1:0] s_m_i,
    input  wire  [      V-1:0] s_b_i,
    output logic               m_res_valid,
    output logic               m_res_first,
    output logic               m_res_last,
    output logic [TagBits-1:0] m_res_tag,
    output logic [      V-1:0] m_res_data,
    output logic               busy_o,         // a product occupies this cycle's slot
    output logic               idle_o          // nothing in flight
);

  localparam int unsigned PeLatency = Karatsuba ? 24 : 15;
  localparam int unsigned PeModulusSkew = Karatsuba ? 12 : 8;
  localparam int unsigned H = (WordBits + 1) / 2;
  localparam int unsigned TBits = Karatsuba ? 4 * H + 8 : 2 * H + 4;
  localparam int unsigned GuardBits = 3;
  localparam int unsigned AddressBits = $clog2(MaxWords + FetchLatency + 4);

  if (Elements < 1 || FetchLatency < 1 || MaxWords < 2 || MaxWords > 254) begin : g_illegal
    $error("residue_ring: parameters out of range");
  end

  // ---- control
  wire leave, leave_last, control_idle;
  wire [TagBits-1:0] leave_tag;
  residue_ring_control #(
      .TagBits(TagBits), .FlushCycles(PeLatency * Elements + FetchLatency + 16)
  ) u_control (
      .clk, .rst_n, .slots_i, .passes_i, .s_req_valid, .s_req_ready, .s_req_tag,
      .m_fetch_valid, .m_fetch_tag, .m_fetch_pass,
      .leave_i(leave), .leave_last_o(leave_last), .leave_tag_o(leave_tag), .idle_o(control_idle)
  );

  // ---- entry: word 0 comes FetchLatency cycles after the fetch
  logic [FetchLatency-1:0] fetched_q, fetched_again_q;
  always_ff @(posedge clk) begin
    if (!rst_n) fetched_q <= '0;
    else fetched_q <= FetchLatency'({fetched_q, m_fetch_valid});
    fetched_again_q <= FetchLatency'({fetched_again_q, m_fetch_pass != '0});
  end

  logic [7:0] in_slot_q;  // of the next word, if it is not a first one; all ones when none is
  logic in_again_q;
  wire in_first = fetched_q[FetchLatency-1];
  wire [7:0] in_slot = in_first ? '0 : in_slot_q;
  wire in_again = in_first ? fetched_again_q[FetchLatency-1] : in_again_q;
  wire in_busy = in_slot < slots_i;
  wire in_word = in_slot < words_i;
  always_ff @(posedge clk) begin
    if (!rst_n) in_slot_q <= '1;
    else if (in_busy) in_slot_q <= (in_slot + 8'd1 == slots_i) ? '1 : in_slot + 8'd1;
    in_again_q <= in_again;
    busy_o     <= rst_n & in_busy;
  end

  logic [TBits-1:0] store[2**AddressBits];  // t of passes that come back
  logic [AddressBits-1:0] put_q, take_q;
  logic [TBits-1:0] stored_q;

  logic first_q, keep_t_q;
  logic [V-1:0] a_q, b_q;
  logic [TBits-1:0] t_q;
  wire [V-1:0] m_late;
  always_ff @(posedge clk) begin
    first_q    <= in_first;
    a_q        <= in_word ? s_a_i : '0;
    b_q        <= s_b_i;
    keep_t_q   <= in_word & in_again;
    stored_q   <= store[take_q];
    t_q        <= keep_t_q ? stored_q : '0;
    if (!rst_n) take_q <= '0;
    else if (clear_i | (in_word & in_again)) take_q <= take_q + 1'b1;
  end
  residue_delay #(.Width(V), .Cycles(PeModulusSkew + 1)) u_m (
      .clk, .d_i(in_word ? s_m_i : V'(0)), .q_o(m_late)
  );

  // ---- elements
  for (genvar i = 0; i < Elements; i++) begin : g_pe
    wire from_first, first;
    wire [V-1:0] from_a, from_b, from_m, a, b, m;
    wire [TBits-1:0] from_t, t;
    if (i == 0) begin : g_head
      assign {from_first, from_a, from_b, from_m, from_t} = {first_q, a_q, b_q, m_late, t_q};
    end else begin : g_next
      assign {from_first, from_a, from_b, from_m, from_t} =
          {g_pe[i-1].first, g_pe[i-1].a, g_pe[i-1].b, g_pe[i-1].m, g_pe[i-1].t};
    end
    if (Karatsuba) begin : g_karatsuba
      residue_pe_karatsuba #(.WordBits(WordBits)) u_pe (
          .clk, .first_i(from_first), .a_i(from_a), .b_i(from_b), .t_i(from_t), .m_i(from_m),
          .first_o(first), .a_o(a), .b_o(b), .t_o(t), .m_o(m)
      );
    end else begin : g_schoolbook
      residue_pe #(.WordBits(WordBits)) u_pe (
          .clk, .first_i(from_first), .a_i(from_a), .b_i(from_b), .t_i(from_t), .m_i(from_m),
          .first_o(first), .a_o(a), .b_o(b), .t_o(t), .m_o(m)
      );
    end
  end

  // ---- exit: back to the store, or through the normaliser
  // The flag stands with a, one cycle before t. What comes out while nothing is in flight was cut
  // off by a reset.
  assign leave = g_pe[Elements-1].first & !control_idle;

  logic out_first_q, out_last_q;
  logic [7:0] out_slot_q;
  logic [TagBits-1:0] out_tag_q;
  wire [7:0] out_slot = out_first_q ? '0 : out_slot_q;
  wire out_word = out_slot < words_i;
  wire [TBits-1:0] out_t = g_pe[Elements-1].t;
  always_ff @(posedge clk) begin
    if (!rst_n) begin
      out_first_q <= 1'b0;
      out_slot_q  <= '1;
      put_q       <= '0;
    end else begin
      out_first_q <= leave;
      if (out_word) out_slot_q <= (out_slot + 8'd1 == words_i) ? '1 : out_slot + 8'd1;
      if (clear_i | (out_word & ~out_last_q)) put_q <= put_q + 1'b1;
    end
    if (leave) {out_last_q, out_tag_q} <= {leave_last, leave_tag};
    if (clear_i | (out_word & ~out_last_q)) store[put_q] <= clear_i ? '0 : out_t;
  end

  logic [1:0] sum_valid_q, sum_first_q, sum_last_q;
  logic [1:0][TagBits-1:0] sum_tag_q;
  wire [Digits*(WordBits+GuardBits)-1:0] sum;
  always_ff @(posedge clk) begin
    if (!rst_n) sum_valid_q <= '0;
    else sum_valid_q <= {sum_valid_q[0], out_word & out_last_q};
    sum_first_q <= {sum_first_q[0], out_first_q};
    sum_last_q  <= {sum_last_q[0], out_slot + 8'd1 == words_i};
    sum_tag_q   <= {sum_tag_q[0], out_tag_q};
  end
  residue_join #(.WordBits(WordBits), .Karatsuba(Karatsuba)) u_join (
      .clk, .s_t(out_t), .m_data(sum)
  );

  logic [5:0] drain_q;  // results on their way from here to the port
  always_ff @(posedge clk) begin
    if (!rst_n) drain_q <= '0;
    else drain_q <= {drain_q[4:0], out_word};
  end
  assign idle_o = control_idle & ~out_word & ~|drain_q;

  residue_normalise #(
      .Width(WordBits), .GuardBits(GuardBits), .Digits(Digits), .TagBits(TagBits)
  ) u_normalise (
      .clk, .rst_n, .s_valid(sum_valid_q[1]), .s_first(sum_first_q[1]), .s_last(sum_last_q[1]),
      .s_tag(sum_tag_q[1]), .s_data(sum), .m_valid(m_res_valid), .m_first(m_res_first),
      .m_last(m_res_last), .m_tag(m_res_tag), .m_data(m_res_data)
  );

endmodule

`default_nettype wire
